"""A network of your own: cut it in memory, or let it learn its widths in your own training loop."""

import copy

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from secateur import NetworkRecipe, SoftToHard, SoftToHardSettings, describe_channels, prune_channels_
from secateur.images.pictures import Pictures


def network() -> nn.Sequential:
    """A small network for handwritten digits of 8 x 8 pixels."""
    first = (nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32, 10))


def accuracy(model: nn.Module, pixels: Tensor, classes: Tensor) -> float:
    """The share of pictures whose class is told right."""
    with torch.no_grad():
        return float((model.eval()(pixels).argmax(1) == classes).float().mean())


torch.manual_seed(0)
digits = load_digits()
pixels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
classes = torch.tensor(digits.target)
train, test = (pixels[:1400], classes[:1400]), (pixels[1400:], classes[1400:])
order = torch.Generator().manual_seed(0)
batches = [
    (train[0][part], train[1][part]) for _ in range(6) for part in torch.randperm(1400, generator=order).split(70)
]

# 1. Train it as you always do, then remove half of its multiply-accumulates and refit what is left.
dense = network()
optimizer = torch.optim.AdamW(dense.parameters(), lr=3e-3)
for x, y in batches:
    loss = nn.functional.cross_entropy(dense.train()(x), y)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
small = copy.deepcopy(dense)
done = prune_channels_(small, pixels[:1], NetworkRecipe(method="refit", budget="0.5-macs"), Pictures(*train))
print(f"dense: {accuracy(dense, *test):.3f} at {done.before.macs:,} MACs")
print(f"half, refitted: {accuracy(small, *test):.3f} at {done.after.macs:,} MACs")

# 2. Or learn widths and weights together, in a loop of your own.
model = network()
settings = SoftToHardSettings(target=0.5, divisor=4, mask_rate=0.1)
learner = SoftToHard(describe_channels(model, pixels[:1]), settings, steps=len(batches))
loop = learner.loop(rate=0.05, decay=1e-4)
for batch in batches:
    loop.step(batch)
cut = learner.finish(batches[:20])  # the model is now the small network
print(f"half, learned: {accuracy(model, *test):.3f}, widths {[len(kept) for kept in cut.kept.values()]}")
