"""What pruning finds is the best of all choices: forests small enough to try every one, example by example."""

from itertools import product

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from secateur.forest.pruner import SOLVERS, BudgetPruner
from secateur.trees.primal_dual import PrimalDual

TRADES = (0.0, 0.03, 0.2, 1.0, 1000.0, np.inf)


def prunings(tree, node=0):
    """Every set of splits of one tree, each with its parent."""
    left, right = tree.children_left[node], tree.children_right[node]
    yield frozenset()
    if left >= 0:
        for below, beside in product(prunings(tree, left), prunings(tree, right)):
            yield below | beside | {node}


def walk(tree, kept, row):
    """The node an example ends in, and the features it was asked for."""
    node, asked = 0, set()
    while node in kept:
        feature = tree.feature[node]
        asked.add(int(feature))
        goes_left = np.float32(row[feature]) <= tree.threshold[node]
        node = (tree.children_left if goes_left else tree.children_right)[node]
    return node, asked


def every_value(model, x, y, weight, costs, groups):
    """Error and cost of every pruning of a fitted model, by walking every example; groups are bought whole."""
    trees = [tree.tree_ for tree in getattr(model, "estimators_", [model])]
    seen = []
    for tree in trees:
        table = []
        for kept in prunings(tree):
            wrong, needs = np.zeros(len(x)), []
            for number, row in enumerate(x):
                node, asked = walk(tree, kept, row)
                said = tree.value[node, 0]
                if hasattr(model, "classes_"):
                    wrong[number] = model.classes_[said.argmax()] != y[number]
                else:
                    wrong[number] = (said[0] - y[number]) ** 2
                needs.append({groups[feature] for feature in asked})
            table.append((wrong @ weight / weight.sum() / len(trees), needs))
        seen.append(table)
    for chosen in product(*seen):
        paid = [sum(costs[g] for g in set().union(*sets)) for sets in zip(*(one[1] for one in chosen), strict=True)]
        yield sum(one[0] for one in chosen), np.dot(paid, weight) / weight.sum()


def chain(kind, depth):
    """A tree of one feature whose every split has a leaf on its left."""
    x = np.arange(depth + 1.0)[:, None].repeat(2, axis=0)
    y = (x[:, 0] % 2).astype(int) if kind is DecisionTreeClassifier else 3.0 ** x[:, 0]
    return kind(random_state=0), x, y


def tiny(seed):
    """A model of some kind, rows, targets, weights, and what groups cost; few enough prunings to try all."""
    draw = np.random.default_rng(seed)
    shape = seed % 6
    if shape == 0:
        model, x, y = chain((DecisionTreeClassifier, DecisionTreeRegressor)[seed // 6 % 2], 1 + seed // 12 % 5)
    else:
        features = (0, 1, 2, 3, 4, 3)[shape]
        x = draw.integers(0, 4, (14, features)).astype(float)
        y = draw.integers(0, 3, 14) if shape != 4 else np.round(draw.normal(size=14), 1) * 10.0 ** draw.integers(-6, 6)
        many, one = (
            (RandomForestRegressor, DecisionTreeRegressor)
            if shape == 4
            else ((RandomForestClassifier, ExtraTreesClassifier)[seed % 2], DecisionTreeClassifier)
        )
        leaves = int(draw.integers(2, 5))
        if shape == 1:
            model = one(max_depth=1 + seed // 6 % 3, max_leaf_nodes=6, random_state=seed)
        else:
            model = many(int(draw.integers(1, 4)), max_leaf_nodes=leaves, random_state=seed)
    weight = draw.integers(0, 3, len(x)).astype(float) if seed % 3 == 0 else np.ones(len(x))
    weight[0] = 1.0
    groups = draw.integers(0, 2, x.shape[1]) if shape == 5 else np.arange(x.shape[1])
    names, groups = np.unique(groups, return_inverse=True)
    costs = (draw.integers(0, 3, len(names)) if seed % 2 else draw.random(len(names))) * 10.0 ** draw.integers(-9, 9)
    return model.fit(x, y), x, y, weight, costs.astype(float), groups


@pytest.mark.parametrize("part", range(10))
def test_every_solver_finds_the_best_of_all_choices(part):
    for seed in range(part, 240, 10):
        model, x, y, weight, costs, groups = tiny(seed)
        values = list(every_value(model, x, y, weight, costs, groups))
        unit = (max(error for error, _ in values) or 1.0) / (max(cost for _, cost in values) or 1.0)
        for trade in TRADES:
            trade_off = trade * unit
            best = min(error + (trade_off * cost if cost else 0.0) for error, cost in values)
            for solver in ("min_cut", "lp", "primal_dual"):
                pruner = BudgetPruner(model, feature_costs=costs, feature_groups=groups, solver=solver)
                pruner.set_params(trade_off=trade_off).fit(x, y, weight)
                got = pruner.error_ + (trade_off * pruner.cost_ if pruner.cost_ else 0.0)
                scale = 1e-9 * values[0][0] if solver != "primal_dual" else 0.02 * abs(best) + 1e-9 * values[0][0]
                assert abs(got - best) <= scale, (seed, trade, solver, got, best)
                assert pruner.expected_cost(x) == pytest.approx(pruner.costs(x).mean())


def test_the_dual_ascent_is_as_near_as_it_says():
    for seed in range(60):
        model, x, y, weight, costs, groups = tiny(seed)
        values = list(every_value(model, x, y, weight, costs, groups))
        trade_off = 0.2 * max(error for error, _ in values) / (max(cost for _, cost in values) or 1.0)
        best = min(error + trade_off * cost for error, cost in values)
        pruner = BudgetPruner(model, feature_costs=costs, feature_groups=groups)
        program = pruner._open(x, y, weight).program
        found = PrimalDual().solve(program, trade_off)
        slack = 1e-9 * values[0][0]
        assert found.bound <= best + slack and found.objective - best <= found.gap * abs(found.objective) + slack


def hull(values):
    """Corners of the lower hull of (cost, error), cheapest first."""
    best = {}
    for error, cost in values:
        best[cost] = min(error, best.get(cost, np.inf))
    corners = []
    for cost, error in sorted(best.items()):
        if corners and error >= corners[-1][1] - 1e-12 * values[0][0]:
            continue
        while len(corners) > 1:
            (c1, e1), (c2, e2) = corners[-2:]
            if (e1 - e2) * (cost - c1) > (e1 - error) * (c2 - c1) * (1 + 1e-9):
                break
            corners.pop()
        corners.append((cost, error))
    return corners


@pytest.mark.parametrize("part", range(10))
def test_the_path_is_the_whole_hull(part):
    for seed in range(part, 240, 10):
        model, x, y, weight, costs, groups = tiny(seed)
        values = list(every_value(model, x, y, weight, costs, groups))
        expected = hull([(error, round(cost, 15 - int(np.log10(cost or 1)))) for error, cost in values])
        path = BudgetPruner(model, feature_costs=costs, feature_groups=groups).path(x, y, weight)
        got = [(point.cost, point.error) for point in path]
        assert len(got) == len(expected), (seed, got, expected)
        assert np.allclose(got, expected, rtol=1e-9, atol=1e-12 * values[0][0]), (seed, got, expected)
        assert path[0].cost == 0 and path[0].trade_off == np.inf


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_stump_that_is_too_dear_buys_nothing(solver):
    x, y = load_breast_cancer(return_X_y=True)
    pruner = BudgetPruner(DecisionTreeClassifier(max_depth=1), trade_off=1000.0, solver=solver).fit(x, y)
    assert pruner.cost_ == 0.0 and pruner.forest_.tree_.node_count == 1
    assert BudgetPruner(DecisionTreeClassifier(max_depth=1)).path(x, y)[0].cost == 0.0
    assert BudgetPruner(DecisionTreeClassifier(max_depth=1), budget=0.0).fit(x, y).cost_ == 0.0
