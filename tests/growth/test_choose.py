from itertools import pairwise

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from secateur import BudgetPruner
from secateur.core.errors import InputError
from secateur.growth.candidates import Rows
from secateur.growth.choose import best, choices
from secateur.trees.usage import read_prices


def found(how, budget=None):
    x, y = load_breast_cancer(return_X_y=True)
    ones = np.ones(len(y))
    rows = Rows(x.astype(np.float32), y, y.astype(np.int64), ones, ones, ones, True)
    return choices(RandomForestClassifier(8, random_state=0), rows, read_prices(30), how, budget)


def test_choices_rise_in_cost_and_fall_in_error_and_more_growths_lose_to_none():
    static, frugal = found("static"), found("frugal")
    for line in (static, frugal):
        assert all(a.cost < b.cost and a.error > b.error for a, b in pairwise(line))
    for one in static:
        assert min(other.error for other in frugal if other.cost <= one.cost + 1e-12) <= one.error


def test_the_best_is_the_least_error_within_the_budget_or_by_the_trade_off():
    line = found("static")
    middle = line[len(line) // 2]
    assert best(line, budget=middle.cost, trade_off=0.0) == middle
    assert best(line, budget=None, trade_off=0.0) == line[-1] and best(line, budget=None, trade_off=1e9) == line[0]
    assert best(line[1:], budget=line[1].cost / 2, trade_off=0.0) is None


@pytest.mark.parametrize("how", ["static", "frugal"])
def test_one_call_keeps_the_budget_and_hands_back_scikit_learns_forest(how):
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    pruner = BudgetPruner(RandomForestClassifier(10, random_state=0), budget=3.0, grow=how).fit(x, y)
    assert pruner.cost_ <= 3 and pruner.expected_cost(x) == pytest.approx(pruner.cost_)
    assert pruner.score(x, y) > 0.9 and isinstance(pruner.growth_, str)
    assert type(pruner.forest_) is RandomForestClassifier
    again = BudgetPruner(RandomForestClassifier(10, random_state=0), budget=3.0, grow=how).fit(x, y)
    assert np.array_equal(pruner.predict_proba(x), again.predict_proba(x))
    points = BudgetPruner(RandomForestClassifier(5, random_state=0), grow=how).path(x, y)
    assert points[0].trade_off == np.inf and all(a.trade_off >= 0 for a in points)
    few = BudgetPruner(RandomForestClassifier(5, random_state=0), grow=how).path(x, y, points=3)
    assert [one.cost for one in (few[0], few[-1])] == [points[0].cost, points[-1].cost] and len(few) == 3
    chosen = BudgetPruner(RandomForestClassifier(5, random_state=0), grow=how, budget=points[1].cost).fit(x, y)
    before = [one for one in points if one.cost < chosen.cost_]
    assert (chosen.trade_off_ == np.inf) == (not before) and chosen.trade_off_ > 0


@pytest.mark.parametrize("grow", ["none", "static", "frugal"])
def test_how_small_weights_are_changes_nothing(grow):
    x, y = load_breast_cancer(return_X_y=True)
    told = []
    for scale in (1.0, 2.0**-1000):
        pruner = BudgetPruner(RandomForestClassifier(4, random_state=0), grow=grow, budget=2.0)
        pruner.fit(x, y, sample_weight=np.full(len(y), scale))
        told.append((pruner.cost_, pruner.error_, pruner.predict_proba(x).tolist()))
    assert told[0] == told[1]


def test_numbers_keep_their_mean_when_grown_frugally():
    x, y = load_diabetes(return_X_y=True)
    pruner = BudgetPruner(RandomForestRegressor(20, random_state=0, min_samples_leaf=5), budget=3.0, grow="frugal")
    said = pruner.fit(x, y).predict(x)
    assert abs(said.mean() - y.mean()) < 5 and pruner.score(x, y) > 0.4


def test_what_does_not_go_together_is_refused():
    x, y = load_breast_cancer(return_X_y=True)
    fitted = RandomForestClassifier(3, random_state=0).fit(x, y)
    for settings, said in (
        ({"grow": "much"}, "grow 'much' is unknown"),
        ({"grow": "static", "solver": "lp"}, "leave solver and validation_fraction out"),
        ({"grow": "static", "validation_fraction": 0.2}, "leave solver and validation_fraction out"),
        ({"grow": "frugal", "forest": fitted}, "give an unfitted one"),
    ):
        with pytest.raises(InputError, match=said):
            BudgetPruner(**{"forest": RandomForestClassifier(3), **settings}).fit(x, y)


@pytest.mark.parametrize("how", ["static", "frugal"])
def test_degenerate_tables_give_a_forest_or_a_sentence(how):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 3))
    y = (x[:, 0] > 0).astype(int)
    prune = BudgetPruner(RandomForestClassifier(5, random_state=0), budget=1.0, grow=how)
    assert prune.fit(x[:, :1], y).score(x[:, :1], y) == 1.0  # one feature
    assert prune.fit(x, np.zeros(60)).cost_ == 0 and prune.fit(np.ones((60, 3)), y).cost_ == 0  # nothing to learn
    assert set(prune.fit(x, np.array(["no", "yes"])[y]).predict(x)) == {"no", "yes"}
    assert BudgetPruner(RandomForestClassifier(5, random_state=0), budget=0.0, grow=how).fit(x, y).cost_ == 0
    free = BudgetPruner(RandomForestClassifier(5, random_state=0), feature_costs=[0, 0, 0], budget=0.0, grow=how)
    assert free.fit(x, y).score(x, y) == 1.0
    grouped = BudgetPruner(RandomForestClassifier(5, random_state=0), budget=2.0, grow=how)
    grouped.set_params(feature_costs=[2, 1], feature_groups=["a", "a", None])
    assert grouped.fit(x, y).cost_ <= 2
    large = BudgetPruner(RandomForestRegressor(5, random_state=0), budget=2.0, grow=how).fit(x, 1e5 + x[:, 0])
    assert large.score(x, 1e5 + x[:, 0]) > 0.9
    with pytest.raises((InputError, ValueError), match="weigh nothing|non-zero"):
        prune.fit(x, y, sample_weight=np.zeros(60))


@pytest.mark.parametrize("how", ["none", "static", "frugal"])
def test_class_weights_are_honoured(how):
    """Ten times the weight on the rarer class: it is found more often than without."""
    x, y = load_breast_cancer(return_X_y=True)
    x = x[:, :4]
    recalls = []
    for weight in (None, {0: 50.0, 1: 1.0}):
        forest = RandomForestClassifier(10, random_state=0, max_depth=3, class_weight=weight)
        said = BudgetPruner(forest, trade_off=0.01, grow=how).fit(x, y).predict(x)
        recalls.append(np.mean(said[y == 0] == 0))
    assert recalls[1] > recalls[0]
