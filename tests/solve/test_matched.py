import torch

from secateur.calibrate.statistic import Cross, Gathered, Gram
from secateur.core.linalg import damped
from secateur.solve.matched import matched


def both(dense, x):
    gram, cross = Gram(), Cross()
    for start in range(0, len(x), 16):
        gram.update(x[start : start + 16])
        cross.pair(dense[start : start + 16], x[start : start + 16])
    return Gathered({Gram: gram, Cross: cross})


def test_equal_inputs_leave_the_weight():
    weight, x = torch.randn(5, 8), torch.randn(64, 8)
    assert torch.allclose(matched(weight, both(x, x)), weight, atol=1e-5)


def test_it_is_the_damped_least_squares_solution():
    """Checked against rows stacked with the damping's, solved without Grams."""
    weight, x = torch.randn(5, 8).double(), torch.randn(64, 8).double()
    dense = x + 0.3 * torch.randn(64, 8).double()
    stats = both(dense, x)
    extra = (damped(stats[Gram].value, 0.1) - stats[Gram].value).diagonal().double().sqrt().diag()
    rows = torch.cat([x * (2 / 64) ** 0.5, extra])
    wanted = torch.cat([dense @ weight.T * (2 / 64) ** 0.5, extra @ weight.T])
    expected = torch.linalg.lstsq(rows, wanted).solution.T
    assert torch.allclose(matched(weight.float(), stats), expected.float(), atol=1e-4)


def test_dead_inputs_keep_their_weights():
    weight, x = torch.randn(3, 6), torch.randn(32, 6)
    x[:, 2] = 0
    found = matched(weight, both(x * 1.2, x))
    assert torch.allclose(found[:, 2], weight[:, 2], atol=1e-6) and not torch.allclose(found[:, 1], weight[:, 1])


def test_two_parts_of_the_inputs_merge():
    dense, x = torch.randn(32, 4), torch.randn(32, 4)
    whole = both(dense, x)[Cross].value
    merged = both(dense[:16], x[:16])[Cross].merge(both(dense[16:], x[16:])[Cross]).value
    assert torch.allclose(whole, merged, atol=1e-5) and torch.allclose(whole, dense.T @ x / 16, atol=1e-5)
