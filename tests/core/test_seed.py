import torch

from secateur.core.seed import generator


def draw(*path):
    return torch.randint(1 << 30, (4,), generator=generator(*path)).tolist()


def test_streams_are_fixed_by_name_and_apart():
    assert draw(0, "a", 1) == draw(0, "a", 1)
    assert len({tuple(draw(*path)) for path in [(0,), (1,), (0, "a"), (0, "a", 1), (0, "b", 1)]}) == 5


def test_the_global_stream_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    draw(0, "x")
    assert torch.equal(torch.rand(1), expected)
