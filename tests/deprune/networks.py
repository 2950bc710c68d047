"""A small network of inverted residual blocks, with weights that mean something to its batch norms."""

import torch
from torch import nn

from secateur.storage.network import Network, Preprocessing

SIDE = 12


class Block(nn.Module):
    """Expand, depthwise, project; added to its input where it keeps the shape."""

    def __init__(self, channels, width, out, kernel, stride):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6())
        self.depthwise = nn.Conv2d(width, width, kernel, stride, kernel // 2, groups=width, bias=False)
        self.norm, self.act = nn.BatchNorm2d(width), nn.ReLU6()
        self.project = nn.Sequential(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))
        self.added = stride == 1 and channels == out

    def forward(self, x):
        out = self.project(self.act(self.norm(self.depthwise(self.expand(x)))))
        return x + out if self.added else out


class Mobile(nn.Module):
    """A stem, three blocks, a classifier of five."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.blocks = nn.Sequential(Block(16, 64, 16, 3, 1), Block(16, 48, 24, 5, 2), Block(24, 80, 24, 3, 1))
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def mobile():
    """A factory that a user might have; batch norms fit what they read."""
    torch.manual_seed(3)
    model = Mobile()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.rand(64, 3, SIDE, SIDE))
    model.default_cfg = {"input_size": (3, SIDE, SIDE)}
    return model.eval()


def network():
    """It, opened."""
    return Network(mobile(), "deprune.networks:mobile", preprocessing=Preprocessing(size=SIDE))


def pixels(count=48, seed=1):
    """Smooth pictures, as taps of neighbours are alike in real ones."""
    stream = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 4, 4, generator=stream)
    return nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear")
