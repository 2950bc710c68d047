"""Tiny networks, one for each way in which channels belong together."""

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, pad, relu


class Residual(nn.Module):
    """Two blocks with a shortcut, batch norms, and a linear head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.first = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.second(self.first(x))
        return self.head(relu(x).mean((2, 3)))


class Concatenated(nn.Module):
    """A dense block: each convolution reads all before; the head reads them flattened."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 6, 1)
        self.head = nn.Linear(13 * 4, 5)

    def forward(self, x):
        x = torch.cat([x, self.a(x)], dim=1)
        x = torch.cat([x, self.b(relu(x))], dim=1)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


class Shuffled(nn.Module):
    """ShuffleNet's block: halves, a depthwise branch, concatenation, a shuffle written out by hand."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(4, 6, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.out = nn.Conv2d(6, 4, 1)
        self.last, self.head = nn.Conv2d(8, 7, 1), nn.Linear(7, 5)

    def forward(self, x):
        one, two = self.stem(x).chunk(2, dim=1)
        x = torch.cat([one, self.out(relu(self.depthwise(self.inner(two))))], dim=1)
        count, channels, high, wide = x.shape
        x = x.view(count, 2, channels // 2, high, wide).transpose(1, 2).reshape(count, -1, high, wide)
        return self.head(relu(self.last(x)).mean((2, 3)))


class Grouped(nn.Module):
    """A convolution of two wide groups, and one of eight narrow ones."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 3, padding=1, groups=2)
        self.c, self.d = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 32, 3, padding=1, groups=8)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = relu(self.b(relu(self.a(x))))
        return self.head(relu(self.d(relu(self.c(x)))).amax((2, 3)))


class Gated(nn.Module):
    """Squeeze and excite over an expanded, depthwise convolution with a multiplier."""

    def __init__(self):
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6, affine=False)
        self.depthwise = nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False)
        self.slope = nn.PReLU(12)
        self.down, self.up = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.project, self.head = nn.Conv2d(12, 7, 1), nn.Linear(7, 5)

    def forward(self, x):
        x = self.slope(self.depthwise(relu(self.norm(self.expand(x)))))
        gate = torch.sigmoid(self.up(relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head(self.project(x * gate).mean((2, 3)))


class Scaled(nn.Module):
    """ConvNeXt's block: a layer norm keeps the stream; the hidden channels of the MLP are free."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.depthwise, self.norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.gamma = nn.Parameter(torch.full((8,), 0.1))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        inner = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = x + (self.gamma * self.down(nn.functional.gelu(self.up(inner)))).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


class Bare(nn.Module):
    """Parameters and buffers used directly: a scale, a shift along another axis, a blurring filter."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 7, 1)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.shift = nn.Parameter(torch.rand(1, 6, 8, 8))
        self.register_buffer("filter", torch.rand(6, 1, 3, 3))
        self.head = nn.Linear(7, 5)

    def forward(self, x):
        x = self.a(x) * self.scale + self.shift
        x = conv2d(pad(x, (1, 1, 1, 1), mode="reflect"), self.filter, groups=x.shape[1])
        return self.head(relu(self.b(relu(x))).mean((2, 3)))


class Listed(nn.Module):
    """Splits whose sizes stand in attributes: a list of uneven ones, and a width."""

    def __init__(self):
        super().__init__()
        self.stem, self.sizes, self.width = nn.Conv2d(3, 9, 1), [2, 3, 4], 4
        self.parts = nn.ModuleList([nn.Conv2d(size, 4, 1) for size in self.sizes])
        self.body = nn.Conv2d(12, 8, 1)
        self.halves = nn.ModuleList([nn.Conv2d(self.width, 3, 1) for _ in range(2)])
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        parts = torch.split(relu(self.stem(x)), self.sizes, dim=1)
        x = self.body(torch.cat([part(own) for part, own in zip(self.parts, parts, strict=True)], dim=1))
        halves = torch.split(relu(x), self.width, dim=1)
        x = torch.cat([half(own) for half, own in zip(self.halves, halves, strict=True)], dim=1)
        return self.head(x.mean((2, 3)))


class Selected(nn.Module):
    """Two branches, stacked, weighted by a softmax over branches, and summed (selective kernels)."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 1)
        self.down, self.up = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 12, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        both = torch.stack([relu(self.one(x)), relu(self.two(x))], dim=1)
        weights = self.up(relu(self.down(both.sum(1).mean((2, 3), keepdim=True))))
        weights = torch.softmax(weights.view(len(x), 2, weights.shape[1] // 2, 1, 1), dim=1)
        return self.head((both * weights).sum(1).mean((2, 3)))


class Twice(nn.Module):
    """One convolution that runs twice, on what it made itself."""

    def __init__(self):
        super().__init__()
        self.stem, self.again, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x):
        x = relu(self.stem(x))
        return self.head(relu(self.again(relu(self.again(x)))).mean((2, 3)))


class Upsampled(nn.Module):
    """An hourglass: pooled, transposed, shuffled into space, added to what it came from."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.ConvTranspose2d(6, 8, 2, stride=2)
        self.c, self.shuffle = nn.Conv2d(6, 32, 1), nn.PixelShuffle(2)
        self.out = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = avg_pool2d(relu(self.a(x)), 2)
        return self.out(relu(self.b(x) + self.shuffle(self.c(x))))


class Attended(nn.Module):
    """A transformer's block over patches; attention stays, the hidden channels are free."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.place = nn.Parameter(torch.rand(1, 4, 8))
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 20), nn.Linear(20, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        q, k, v = self.qkv(self.norm(x)).reshape(len(x), 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), 4, 8)
        x = x + self.out(mixed)
        return self.head((x + self.down(relu(self.up(self.norm(x))))).mean(1))


class Multiplied(Attended):
    """The same where attention is two products: nobody's zero columns say that q and k lose a channel."""

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        q, k, v = self.qkv(self.norm(x)).reshape(len(x), 4, 3, 2, -1).permute(2, 0, 3, 1, 4)
        mixed = ((0.5 * q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(len(x), 4, -1)
        x = x + self.out(mixed)
        return self.head((x + self.down(relu(self.up(self.norm(x))))).mean(1))


class Plain(nn.Module):
    """A perceptron."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 9))
        self.head = nn.Linear(9, 5)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


NETWORKS = {
    kind.__name__: kind
    for kind in (
        Residual, Concatenated, Shuffled, Grouped, Gated, Scaled, Bare, Listed, Selected, Twice, Upsampled, Attended,
        Multiplied, Plain,
    )
}  # fmt: skip
EXAMPLE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def made(kind, seed=0):
    """A network with random weights, statistics of norms included, in evaluation mode."""
    stream = torch.Generator().manual_seed(seed)
    model = NETWORKS[kind]()
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=stream) + (0.5 if value.dim() < 2 else -0.4))
    return model.eval()
