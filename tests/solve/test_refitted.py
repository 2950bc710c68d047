import pytest
import torch

from secateur.calibrate.statistic import Gram
from secateur.core.errors import InputError
from secateur.core.linalg import damped, layer_loss, refit_rows
from secateur.core.pattern import NM, Columns, PerRow, Unstructured
from secateur.run.recipe import Recipe
from secateur.solve.refitted import Refitted
from secateur.testing import problem, summary


@pytest.mark.parametrize("pattern", [Unstructured(), PerRow(), NM(), Columns(unit=4)])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "ria", "sparsegpt", "slimgpt", "taylor", "random"])
def test_the_mask_stays_and_the_weights_come_to_the_exact_refit(method, pattern):
    weight, x = problem(8, 16)
    stats = summary(weight, x)
    if method == "slimgpt":
        pattern = Columns(unit=4)
    solver = Recipe(method=method, ratio=0.5).solver()
    plain = solver.solve(weight, stats, pattern, 0.5)
    fitted = Refitted(solver=solver, steps=40).solve(weight, stats, pattern, 0.5)
    assert torch.equal(fitted.keep, plain.keep) and not fitted.weight[~fitted.keep].any()
    matrix = damped(stats[Gram].value, 0.03)
    assert torch.allclose(fitted.weight, refit_rows(weight, plain.keep, matrix), atol=1e-4)
    assert layer_loss(weight, fitted.weight, matrix) <= layer_loss(weight, plain.weight, matrix) * (1 + 1e-6)
    assert fitted.loss == pytest.approx(layer_loss(weight, fitted.weight, stats[Gram].value), rel=1e-5)


def test_solvers_that_leave_no_mask_to_fit_on_are_refused():
    for recipe in ({"method": "shortgpt"}, {"method": "flap"}):
        with pytest.raises(InputError, match="refit cg"):
            Recipe(**recipe, ratio=0.5, refit="cg")
    assert isinstance(Recipe(method="wanda", ratio=0.5, refit="cg").solver(), Refitted)
