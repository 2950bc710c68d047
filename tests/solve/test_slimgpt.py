from itertools import combinations

import pytest
import torch

from secateur.calibrate.statistic import Gram, gather
from secateur.core.errors import InputError, NumericalError, PatternError
from secateur.core.linalg import damped, layer_loss, refit_columns
from secateur.core.pattern import Columns, Unstructured
from secateur.solve.slimgpt import SlimGPT
from secateur.testing import problem

EXACT = SlimGPT(precision="float64", last=1, decay=0.0)


def case(rows=6, columns=12, seed=0):
    weight, x = problem(rows, columns, seed=seed)
    return weight, x, gather((Gram,), x)


@pytest.mark.parametrize("unit", [1, 4])
def test_the_loss_is_the_one_measured_on_the_inputs(unit):
    weight, x, stats = case(columns=24)
    solution = SlimGPT().solve(weight, stats, Columns(unit=unit), 0.5)
    measured = ((weight - solution.weight).double() @ x.double().T).square().sum() / len(x)
    assert solution.loss == pytest.approx(float(measured), rel=1e-4)
    assert not solution.weight[~solution.keep].any() and int(solution.keep[0].sum()) == 12


@pytest.mark.parametrize("unit", [1, 3])
def test_greedy_updates_end_at_the_least_squares_refit_and_errors_telescope(unit):
    weight, _, stats = case(columns=24)
    gram = damped(stats[Gram].value, 0.01).double()
    kept, repaired, path = EXACT._greedy(weight.double(), gram, Columns(unit=unit), 12 // unit)
    paid = path[-1][1]
    keep = kept.repeat_interleave(unit)
    assert torch.allclose(repaired, refit_columns(weight.double(), keep, gram), atol=1e-9)
    assert paid == pytest.approx(2 * layer_loss(weight.double(), repaired, gram), rel=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_single_columns_follow_brute_force_greedy(seed):
    weight, _, stats = case(seed=seed)
    gram = damped(stats[Gram].value, 0.01).double()
    left = set(range(12))

    def loss(keep):
        mask = torch.tensor([j in keep for j in range(12)])
        return layer_loss(weight.double(), refit_columns(weight.double(), mask, gram), gram)

    for _ in range(6):
        left.remove(min(left, key=lambda j: loss(left - {j})))
    keep = EXACT.solve(weight, stats, Columns(), 0.5).keep[0]
    assert set(keep.nonzero().flatten().tolist()) == left
    best = min(loss(set(some)) for some in combinations(range(12), 6))
    assert loss(left) >= best - 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_reading_names_the_head_whose_loss_is_least(seed):
    weight, _, stats = case(columns=20, seed=seed)
    gram = damped(stats[Gram].value, 0.01).double()
    inverse = torch.linalg.inv(gram)
    errors = EXACT._errors(weight.double(), inverse, 4)
    for head in range(5):
        mask = torch.arange(20) // 4 != head
        without = refit_columns(weight.double(), mask, gram)
        assert errors[head] == pytest.approx(2 * layer_loss(weight.double(), without, gram), rel=1e-8)
    rough = SlimGPT(reading="diagonal")._errors(weight.double(), inverse, 4)
    assert (rough <= errors * 2).all() and not torch.allclose(rough, errors)


def test_permuting_heads_permutes_the_answer():
    weight, x, stats = case(columns=24)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    columns = (order[:, None] * 4 + torch.arange(4)).flatten()
    plain = EXACT.solve(weight, stats, Columns(unit=4), 0.5)
    moved = EXACT.solve(weight[:, columns], gather((Gram,), x[:, columns]), Columns(unit=4), 0.5)
    assert torch.equal(moved.keep, plain.keep[:, columns])


def test_every_run_loses_equally_many():
    weight, _, stats = case(columns=24)
    keep = SlimGPT().solve(weight, stats, Columns(unit=2, groups=3), 0.5).keep[0]
    assert keep.reshape(3, 8).sum(dim=1).tolist() == [4, 4, 4]


def test_repair_never_does_worse_and_groups_stay_close_to_greedy():
    weight, _, stats = case(columns=64)
    greedy, grouped = (solver.solve(weight, stats, Columns(), 0.5) for solver in (EXACT, SlimGPT()))
    dropped = torch.where(grouped.keep, weight, 0)
    assert grouped.loss <= layer_loss(weight, dropped, stats[Gram].value)
    assert greedy.loss <= grouped.loss * 1.05 and grouped.loss <= greedy.loss * 1.5


def test_dead_inputs_go_first_and_bad_input_is_refused():
    weight, x, _ = case(columns=12)
    x[:, [2, 7]] = 0
    keep = SlimGPT().solve(weight, gather((Gram,), x), Columns(), 2 / 12).keep[0]
    assert (~keep).nonzero().flatten().tolist() == [2, 7]
    with pytest.raises(PatternError, match="whole columns"):
        SlimGPT().solve(weight, gather((Gram,), x), Unstructured(), 0.5)
    with pytest.raises(NumericalError, match="singular"):
        SlimGPT(damp=0.0).solve(weight, gather((Gram,), x[:4]), Columns(), 0.5)
    with pytest.raises(InputError, match="last"):
        SlimGPT(last=0)
