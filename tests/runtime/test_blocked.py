import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from secateur.core.errors import DisagreementError, InputError, ModelError
from secateur.runtime import blocked as module
from secateur.runtime.blocked import BlockedNetwork, blocked, make_program

AVX2 = ("-mno-avx512f",)
PLAIN = ("-mno-avx512f", "-mno-avx2", "-mno-fma", "-mno-avx")
FLAGS = pytest.mark.parametrize("flags", [(), AVX2, PLAIN], ids=["here", "avx2", "plain"])
needs_compiler = pytest.mark.skipif(module.library(module._SOURCE) is None, reason="no C++ compiler here")
pytestmark = needs_compiler


class Inverted(nn.Module):
    """Expand, depthwise, squeeze-excite, project and add, between a stem and a classifier."""

    def __init__(self, width=20, kernel=3, stride=1, act=nn.ReLU6, dilation=1, classes=7):
        super().__init__()
        own = dilation * (kernel - 1) // 2
        self.stem = nn.Conv2d(3, 10, 3, 2, 1)
        self.expand = nn.Sequential(nn.Conv2d(10, width, 1, bias=False), nn.BatchNorm2d(width), act())
        self.depthwise = nn.Conv2d(width, width, kernel, stride, own, dilation, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = act()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 4, 1), nn.SiLU(), nn.Conv2d(4, width, 1))
        self.project = nn.Conv2d(width, 10, 1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 33), nn.Hardswish())
        self.last = nn.Linear(33, classes)
        self.stride = stride

    def forward(self, x):
        x = torch.relu(self.stem(x))
        h = self.act(self.norm(self.depthwise(self.expand(x))))
        h = self.project(h * torch.sigmoid(self.gate(h)))
        return self.last(self.head(h + x if self.stride == 1 else h))


def drawn(model, seed=0):
    stream = torch.Generator().manual_seed(seed)
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.data = (
                torch.rand(value.shape, generator=stream) + 0.5
                if value.dim() < 2
                else (torch.randn(value.shape, generator=stream) * value[0].numel() ** -0.5)
            )
    return model.eval()


@torch.no_grad()
def check_agreement(model, side, flags=(), batches=(1, 2, 5)):
    program = make_program(model, torch.rand(1, 3, *side))
    made = BlockedNetwork(program, flags)
    for batch in batches:
        pixels = torch.randn(batch, 3, *side, generator=torch.Generator().manual_seed(batch))
        expected = model(pixels)
        assert torch.allclose(made(pixels), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    return program


@FLAGS
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 2), (7, 1, 2)])
def test_a_network_in_blocks_computes_what_torch_does(kernel, stride, dilation, threads, flags):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_agreement(drawn(Inverted(kernel=kernel, stride=stride, dilation=dilation)), (31, 18), flags)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.SiLU])
def test_every_activation_is_torchs(act):
    check_agreement(drawn(Inverted(act=act)), (16, 16))


@pytest.mark.parametrize("width", [1, 15, 16, 17, 48, 130])
@pytest.mark.parametrize("side", [(1, 1), (2, 3), (28, 28), (57, 30)])
def test_any_width_and_picture(width, side):
    check_agreement(drawn(Inverted(width=width)), side)


@FLAGS
@pytest.mark.parametrize("kept", [0, 1, 4, 9])
def test_taps_that_sixteen_channels_do_not_have_are_not_computed(kept, flags):
    model = drawn(Inverted(width=40, kernel=3))
    for run in range(3):
        taps = torch.randperm(9, generator=torch.Generator().manual_seed(run))[kept:]
        model.depthwise.weight.data[16 * run : 16 * run + 16].flatten(2)[..., taps] = 0
    program = check_agreement(model, (14, 14), flags)
    assert program.taps == (3 * kept, 27)


def test_a_tap_of_one_channel_alone_is_computed():
    model = drawn(Inverted(width=16))
    model.depthwise.weight.data[1:, :, 1:] = 0
    assert check_agreement(model, (8, 8)).taps == (9, 9)


@torch.no_grad()
def test_many_shapes_drawn_at_random():
    stream = torch.Generator().manual_seed(5)
    for kernel, stride in itertools.product((1, 3, 5), (1, 2, 3)):
        high, wide, width = (int(torch.randint(1, 40, (1,), generator=stream)) for _ in range(3))
        check_agreement(
            drawn(Inverted(width=width, kernel=kernel, stride=stride), width), (high + 4, wide + 4), batches=(1, 3)
        )


class Odd(nn.Module):
    """Uneven padding, a norm that nothing folds, sums of sums, and a product of two tensors."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 18, 3, 2), nn.Conv2d(18, 18, 1)
        self.norm, self.fc = nn.BatchNorm2d(18), nn.Linear(18, 3)

    def forward(self, x):
        x = self.one(torch.nn.functional.pad(x, (0, 1, 2, 1)))
        y = torch.relu(self.norm(x)) + x
        z = torch.nn.functional.relu6(y + y) * self.two(x)
        return self.fc((z + self.two(y)).mean((2, 3)))


def test_what_does_not_fold_is_computed_alone():
    check_agreement(drawn(Odd()), (11, 9))


@torch.no_grad()
def test_callers_on_several_threads_do_not_disturb_each_other():
    model = drawn(Inverted())
    made = BlockedNetwork(make_program(model, torch.rand(1, 3, 24, 24)))
    pixels = [torch.rand(3, 3, 24, 24) for _ in range(24)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(made, pixels))
    assert all(torch.allclose(one, model(x), rtol=1e-4, atol=1e-4) for one, x in zip(got, pixels, strict=True))


@torch.no_grad()
def test_what_is_no_number_is_not_hidden():
    model = drawn(Inverted())
    made = BlockedNetwork(make_program(model, torch.rand(1, 3, 8, 8)))
    pixels = torch.rand(2, 3, 8, 8)
    pixels[1, 0, 3, 3] = float("nan")
    assert made(pixels)[0].isfinite().all() and made(pixels)[1].isnan().all()


def test_pictures_of_another_shape_are_refused_and_none_are_none():
    made = BlockedNetwork(make_program(drawn(Inverted()), torch.rand(1, 3, 8, 8)))
    with pytest.raises(InputError, match=r"pictures are \[1, 3, 9, 8\], and .* takes \[batch, 3, 8, 8\]"):
        made(torch.rand(1, 3, 9, 8))
    assert made(torch.rand(0, 3, 8, 8)).shape == (0, 7)
    assert made(torch.rand(2, 3, 8, 8).double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "does not pool"),
        (nn.Sequential(nn.Conv2d(3, 4, 33, padding=16), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "kernel of 33 x 33"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(model, words):
    with pytest.raises(ModelError, match=words):
        make_program(model.eval(), torch.rand(1, 3, 8, 8))


def test_what_cannot_run_in_blocks_stays_torchs_with_a_note(monkeypatch, caplog):
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert blocked(plain, torch.rand(1, 3, 8, 8)) is plain and "max_pool2d" in caplog.text
    model = drawn(Inverted())
    assert isinstance(blocked(model, torch.rand(1, 3, 8, 8)), BlockedNetwork)
    monkeypatch.setattr(module, "library", lambda *_: None)
    assert blocked(model, torch.rand(1, 3, 8, 8)) is model and "C++ compiler" in caplog.text


def test_a_network_that_would_compute_something_else_is_refused(monkeypatch):
    model = drawn(Inverted())
    program = make_program(model, torch.rand(1, 3, 8, 8))
    monkeypatch.setattr(module, "make_program", lambda *_: program._replace(data=program.data * 1.01))
    with pytest.raises(DisagreementError, match="differs from torch's"):
        blocked(model, torch.rand(1, 3, 8, 8))


def test_a_profile_has_a_time_for_every_layer():
    model = drawn(Inverted())
    made = BlockedNetwork(make_program(model, torch.rand(1, 3, 16, 16)))
    for batch in (1, 4):
        times = made.profile(torch.rand(batch, 3, 16, 16), rounds=3)
        assert {"stem", "expand.0", "depthwise", "project", "gate.1", "head.2", "last", ""} <= set(times)
        assert all(time >= 0 for time in times.values()) and sum(times.values()) > 0
