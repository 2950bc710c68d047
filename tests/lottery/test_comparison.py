import numpy as np
import pytest

from secateur.core.errors import InputError
from secateur.lottery.comparison import straight_line, width_factors
from secateur.lottery.plan import Lottery, plan_sizes, plan_target
from secateur.lottery.target import Target

EPS = (1e-1, 1e-2, 1e-3)


def test_ours_grow_as_the_logarithm_and_one_pair_as_the_square():
    lines = width_factors(lambda asked: plan_sizes([8, 6, 4], asked), Lottery(), EPS)
    assert set(map(len, lines.values())) == {3} and len(lines) == 7
    many = width_factors(lambda asked: plan_sizes([8, 6, 4], asked), Lottery(), EPS)["one pair a weight (Malach)"]
    assert many[2] / many[1] == pytest.approx(100, rel=0.05)
    assert lines["batch"][2] / lines["batch"][1] < 1.5
    for at in range(3):
        order = ["subset sum, batch", "subset sum per input (Pensia)", "per input", "per weight"]
        sizes = [lines[name][at] for name in (*order, "one pair a weight (Malach)")]
        assert sizes == sorted(sizes)
        assert lines["batch"][at] < lines["per input"][at]


@pytest.mark.parametrize("sampling", ["per-weight", "per-input", "batch"])
def test_the_width_is_linear_in_the_logarithm_of_the_error(sampling):
    digits = np.arange(1.0, 9.0)
    factors = [plan_sizes([64, 32, 10], Lottery(eps=10.0**-digit, sampling=sampling)).factor for digit in digits]
    fit = straight_line(digits.tolist(), factors)
    assert fit.r2 > 0.99 and fit.slope > 0


def test_a_line_is_found_and_two_points_are_refused():
    line = straight_line([1.0, 2.0, 3.0, 4.0], [3.0, 5.0, 7.0, 9.0])
    assert line == pytest.approx((2.0, 1.0, 1.0))
    assert straight_line([1.0, 2.0, 3.0], [1.0, -1.0, 1.0]).r2 == pytest.approx(0.0)
    with pytest.raises(InputError, match="three points or more, got 2"):
        straight_line([1.0, 2.0], [1.0, 2.0])


def test_what_a_plan_refuses_is_left_open():
    def make(asked):
        if asked.law == "uniform" and asked.eps < 0.05:
            raise InputError("too fine")
        return plan_sizes([8, 6], asked)

    lines = width_factors(make, Lottery(), EPS[:2])
    assert lines["subset sum, batch"][0] > 0 and lines["subset sum, batch"][1] is None and None not in lines["batch"]


def test_a_network_of_zeros_needs_nothing():
    zeros = Target((np.zeros((3, 2)),), (np.zeros(3),))
    lines = width_factors(lambda asked: plan_target(zeros, asked), Lottery(), EPS[:1])
    assert all(factors == [0] for factors in lines.values())
