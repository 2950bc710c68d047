import itertools

import numpy as np
import pytest

from secateur.allocate.problem import Problem
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError
from secateur.judged.relinearised import Relinearised, improved


class Bowl:
    """A judge whose loss is a bowl around some ratios; its prices are the bowl's own."""

    def __init__(self, best, wrong=1.0, group=None):
        self.best, self.wrong, self.told, self.group = best, wrong, {}, group

    def at(self, ratios):
        return sum((ratios[name] - best) ** 2 for name, best in self.best.items())

    def loss(self, ratios, label):
        self.told[label] = self.at(ratios)
        return self.told[label]

    def prices(self, ratios, moves):
        return {
            name: [self.wrong * ((ratios[name] + move - best) ** 2 - (ratios[name] - best) ** 2) for move in moves]
            for name, best in self.best.items()
        }


def problem(judge, sizes):
    return Problem({"block": sizes}, {}, judge)


def test_a_step_goes_towards_what_loses_less_and_meets_the_target():
    sizes = {"a": 100, "b": 100, "c": 200}
    judge = Bowl({"a": 0.58, "b": 0.42, "c": 0.5})
    start = Allocation(dict.fromkeys(sizes, 0.5))
    found, loss = improved(problem(judge, sizes), start, judge.at(start.ratios), 0.5, (3, 0.08))
    assert loss < 0.1 * judge.at(start.ratios) and found.mean(sizes) == pytest.approx(0.5)
    assert all(abs(found.ratios[name] - judge.best[name]) < 0.03 for name in sizes)


def test_a_step_that_loses_more_is_halved_and_then_left_out():
    sizes = {"a": 1, "b": 1}
    judge = Bowl({"a": 0.5, "b": 0.5}, wrong=-1.0)
    start = Allocation(dict.fromkeys(sizes, 0.5))
    found, loss = improved(problem(judge, sizes), start, 0.0, 0.5, (2, 0.08))
    assert found == start and loss == 0.0
    assert [float(label.rpartition(" ")[2]) for label in judge.told] == [0.08, 0.04, 0.02]


@pytest.mark.parametrize("seed", range(20))
def test_a_step_is_the_best_choice_within_the_trust_region(seed):
    draw = np.random.default_rng(seed)
    sizes = {name: int(draw.integers(1, 50)) for name in "abc"}
    judge = Bowl({name: float(draw.uniform(0.3, 0.7)) for name in sizes})
    start = Allocation(dict.fromkeys(sizes, 0.5))
    found, _ = improved(problem(judge, sizes), start, np.inf, 0.5, (1, 0.1))
    moves, measured = np.linspace(-0.1, 0.1, 9), (-0.1, -0.05, 0, 0.05, 0.1)
    known = judge.prices(start.ratios, measured)
    prices = {name: np.interp(moves, measured, known[name]) for name in sizes}
    best = min(
        (
            places
            for places in itertools.product(range(9), repeat=3)
            if sum(moves[place] * size for place, size in zip(places, sizes.values(), strict=True)) >= -1e-9
        ),
        key=lambda places: sum(prices[name][place] for name, place in zip(sizes, places, strict=True)),
    )
    chosen = Allocation({name: 0.5 + moves[place] for name, place in zip(sizes, best, strict=True)})
    expected = chosen.balanced(sizes, 0.5)
    assert all(found.ratios[name] == pytest.approx(expected.ratios[name], abs=1e-6) for name in sizes)


def test_where_n_of_m_stay_ratios_move_by_one_of_m():
    sizes = {"a": 100, "b": 100, "c": 200}
    judge = Bowl({"a": 0.8, "b": 0.2, "c": 0.5}, group=4)
    start = Allocation(dict.fromkeys(sizes, 0.5))
    found, loss = improved(problem(judge, sizes), start, judge.at(start.ratios), 0.5, (1, 0.08))
    assert found.ratios == pytest.approx({"a": 0.75, "b": 0.25, "c": 0.5}) and loss == judge.at(found.ratios)
    assert list(judge.told) == ["step 1 of 0.25"]


@pytest.mark.parametrize("seed", range(30))
def test_steps_of_n_of_m_end_at_whole_numbers_and_are_never_worse(seed):
    draw = np.random.default_rng(seed)
    sizes, m = {name: 8 * int(draw.integers(1, 20)) for name in "abcde"}, int(draw.choice([4, 8]))
    judge = Bowl({name: float(draw.uniform(0.2, 0.8)) for name in sizes}, group=m)
    start = Allocation({name: float(draw.uniform(0.3, 0.7)) for name in sizes}).balanced(sizes, 0.5)
    first = judge.at({name: count / m for name, count in start.group_counts(sizes, m).items()})
    found, loss = improved(problem(judge, sizes), start, first, 0.5, (4, 0.08))
    assert loss <= first and loss == pytest.approx(judge.at(found.ratios))
    assert all(ratio * m == pytest.approx(round(ratio * m)) for ratio in found.ratios.values())
    assert abs(found.mean(sizes) - 0.5) <= max(sizes.values()) / m / sum(sizes.values()) + 1e-9


def test_fields_outside_their_range_are_refused():
    for fields in ({"steps": -1}, {"trust": 0.0}, {"reach": 0.0}):
        with pytest.raises(InputError):
            Relinearised(**fields)
