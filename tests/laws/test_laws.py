import pytest
import torch

from secateur.run.methods import METHODS, SCORES
from secateur.run.recipe import Recipe
from secateur.score.magnitude import Magnitude
from secateur.solve.mask_only import MaskOnly
from secateur.testing import check_score, check_solver


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].pattern not in ("blocks", "experts")])
def test_every_method_obeys_the_laws_of_solvers(name):
    check_solver(Recipe(method=name, ratio=0.5).solver())


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].pattern not in ("blocks", "experts")])
@pytest.mark.parametrize("score", SCORES)
def test_every_score_goes_with_every_solver_that_takes_one(name, score):
    if "score" in METHODS[name].defaults:
        check_solver(Recipe(method={"name": name, "score": score}, ratio=0.5).solver())


@pytest.mark.parametrize("score", SCORES.values())
def test_every_score_obeys_the_laws_of_scores(score):
    check_score(score())


class Backwards(Magnitude):
    def __call__(self, weight, stats):
        return weight.abs().flip(0)


class Careless(MaskOnly):
    def solve(self, weight, stats, pattern, ratio):
        solution = super().solve(weight, stats, pattern, ratio)
        return solution._replace(weight=solution.weight + 0.1)


class Elsewhere(MaskOnly):
    def solve(self, weight, stats, pattern, ratio):
        return super().solve(weight * torch.ones(weight.shape[1]), stats, pattern, ratio)


def test_a_solver_that_leaves_the_device_is_caught():
    with pytest.raises((AssertionError, RuntimeError)):
        check_solver(Elsewhere(score=Magnitude()))


def test_the_laws_catch_a_broken_score_and_a_broken_solver():
    with pytest.raises(AssertionError, match="permuting outputs"):
        check_score(Backwards())
    with pytest.raises(AssertionError, match="not kept is zero"):
        check_solver(Careless(score=Magnitude()))
