from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer
from sklearn.tree import DecisionTreeClassifier

from forest_cases import case
from secateur.forest.pruner import BudgetPruner
from secateur.trees.frontier import frontier, restricted, within_budget
from secateur.trees.min_cut import min_cut


@given(st.integers(0, 10_000), st.booleans())
def test_cost_goes_down_and_error_up_along_nested_choices(seed, regression):
    program = case(seed, trees=6, leaves=10, examples=80, regression=regression).program
    points = frontier(program)
    for cheap, dear in pairwise(points):
        assert cheap.value.cost < dear.value.cost and cheap.value.error > dear.value.error
        assert cheap.trade_off > dear.trade_off and not (cheap.keep & ~dear.keep).any()
    assert points[0].trade_off == np.inf and points[0].value.cost == 0


@given(st.integers(0, 10_000), st.floats(1e-4, 1.0))
def test_the_corner_of_a_trade_off_is_its_optimum(seed, trade_off):
    program = case(seed, trees=6, leaves=10, examples=80).program
    corner = [point for point in frontier(program) if point.trade_off >= trade_off][-1]
    best = program.objective(min_cut(program, trade_off), trade_off)
    assert program.objective(corner.keep, trade_off) == pytest.approx(best, abs=1e-9)


def test_a_part_of_the_program_counts_like_the_whole():
    program = case(4, trees=5, leaves=8).program
    inside, outside = min_cut(program, 0.2), min_cut(program, 0.02)
    part, free = restricted(program, inside, outside)
    for seed in range(5):
        chosen = np.random.default_rng(seed).random(int(free.sum())) < 0.8
        for split in range(len(chosen)):
            chosen[split] &= part.parent[split] < 0 or chosen[part.parent[split]]
        keep = inside.copy()
        keep[free] = chosen
        whole, paid = program.value(keep), program.value(inside).cost
        assert part.value(chosen).error == pytest.approx(whole.error)
        assert part.value(chosen).cost == pytest.approx(whole.cost - paid)


@given(st.integers(0, 10_000), st.floats(0.0, 2.0))
def test_a_budget_is_met_by_the_dearest_corner_within_it(seed, budget):
    program = case(seed, trees=6, leaves=10, examples=80).program
    found = within_budget(program, lambda keep: program.value(keep).cost, budget)
    assert found.value == [point.value for point in frontier(program) if point.value.cost <= budget][-1]


def test_a_budget_nothing_meets_has_no_point():
    assert within_budget(case(0).program, lambda keep: 1.0, 0.5) is None


def test_fewer_points_are_corners_too():
    programs = [case(seed, trees=2, leaves=12, examples=100, regression=True).program for seed in range(10)]
    every, program = max(((frontier(one), one) for one in programs), key=lambda pair: len(pair[0]))
    few = frontier(program, points=4)
    values = [point.value for point in every]
    assert 2 <= len(few) <= 4 < len(every) and all(point.value in values for point in few)


def test_one_tree_and_one_price_for_all_is_cost_complexity_pruning_when_every_split_costs_alike():
    """A tree of one split per feature pays by split, so the family of prunings is ccp's."""
    x, y = load_breast_cancer(return_X_y=True)
    tree = DecisionTreeClassifier(max_leaf_nodes=3, random_state=0).fit(x[:, :2], y)
    sizes = {point.forest.tree_.node_count for point in BudgetPruner(tree).path(x[:, :2], y)}
    alphas = tree.cost_complexity_pruning_path(x[:, :2], y).ccp_alphas
    ccp = {
        DecisionTreeClassifier(max_leaf_nodes=3, random_state=0, ccp_alpha=a + 1e-12).fit(x[:, :2], y).tree_.node_count
        for a in alphas
    }
    assert sizes <= ccp | {1}
