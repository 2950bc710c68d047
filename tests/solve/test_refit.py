import pytest
import torch

from secateur.calibrate.statistic import Gram
from secateur.core.errors import NumericalError
from secateur.core.linalg import layer_loss, refit_rows
from secateur.core.pattern import NM, Columns, PerRow, Unstructured
from secateur.run.methods import METHODS
from secateur.score.wanda import Wanda
from secateur.solve.refit import Refit
from secateur.testing import problem, summary

MATRIX = [name for name in METHODS if METHODS[name].pattern not in ("blocks", "experts")]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [(name, pattern) for name in MATRIX for pattern in (Unstructured(), PerRow(), NM()) if name != "slimgpt"]
    + [(name, Columns(unit=4)) for name in MATRIX],
)
def test_refit_is_a_lower_bound_of_every_method_on_its_mask(name, pattern):
    weight, x = problem(8, 32)
    stats = summary(weight, x)
    method = METHODS[name]
    from secateur.run.recipe import Recipe

    solution = Recipe(method=name, ratio=0.5).solver().solve(weight, stats, pattern, 0.5)
    gram = stats[Gram].value
    best = layer_loss(weight, refit_rows(weight, solution.keep, gram), gram)
    assert method and best <= layer_loss(weight, solution.weight, gram) * (1 + 1e-4)


def test_few_tokens_need_the_damp():
    weight, x = problem(8, 32, tokens=10)
    stats = summary(weight, x)
    assert torch.isfinite(Refit(score=Wanda()).solve(weight, stats, PerRow(), 0.5).weight).all()
    with pytest.raises(NumericalError, match="singular"):
        Refit(score=Wanda(), damp=0.0).solve(weight, stats, PerRow(), 0.5)
