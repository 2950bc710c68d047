import subprocess
import sys

import numpy as np
import pandas
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from secateur.core.errors import InputError, NumericalError
from secateur.forest.pruner import SOLVERS, BudgetPruner

X, Y = load_breast_cancer(return_X_y=True)
WEIGHTS = "bootstrap draws differ, as in the forest itself"


def expected_failures(estimator):
    forests = isinstance(estimator.forest, RandomForestClassifier | RandomForestRegressor)
    checks = [f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")]
    return dict.fromkeys(checks, WEIGHTS) if forests else {}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        BudgetPruner(RandomForestClassifier(5, random_state=0)),
        BudgetPruner(RandomForestRegressor(5, random_state=0)),
        BudgetPruner(DecisionTreeClassifier(random_state=0)),
        BudgetPruner(HistGradientBoostingClassifier(max_iter=5, random_state=0)),
    ],
    expected_failed_checks=expected_failures,
)
def test_it_is_a_scikit_learn_estimator(estimator, check):
    assert check(estimator) is None


def forest(kind=RandomForestClassifier, **settings):
    return kind(8, max_depth=6, random_state=0, **settings)


@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier])
def test_a_fitted_forest_loses_cost_and_stays_scikit_learns(kind):
    whole = forest(kind).fit(X, Y)
    before = whole.predict_proba(X)
    pruner = BudgetPruner(whole, trade_off=0.02).fit(X, Y)
    assert type(pruner.forest_) is kind and np.array_equal(whole.predict_proba(X), before)
    assert (
        pruner.expected_cost(X) == pytest.approx(pruner.cost_)
        and 0 < pruner.cost_ < BudgetPruner(whole).fit(X, Y).cost_
    )
    wrong = np.mean([tree.predict(X.astype(np.float32)) != Y for tree in pruner.forest_.estimators_])
    assert pruner.error_ == pytest.approx(wrong) and pruner.score(X, Y) > 0.85
    assert np.array_equal(pruner.predict(X), pruner.forest_.predict(X))


@pytest.mark.parametrize("kind", [RandomForestRegressor, ExtraTreesRegressor])
def test_regressors_lose_squared_distance(kind):
    x, y = load_diabetes(return_X_y=True)
    pruner = BudgetPruner(forest(kind), trade_off=300.0).fit(x, y)
    distances = [(tree.predict(x.astype(np.float32)) - y) ** 2 for tree in pruner.forest_.estimators_]
    assert pruner.error_ == pytest.approx(np.mean(distances)) and pruner.cost_ < 10
    assert not hasattr(pruner, "predict_proba")


def test_a_tree_alone_may_be_pruned():
    pruner = BudgetPruner(DecisionTreeRegressor(random_state=0), trade_off=1e9).fit(X, Y.astype(float))
    assert pruner.forest_.tree_.node_count == 1 and pruner.cost_ == 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_finds_the_same_trade(solver):
    pruner = BudgetPruner(forest(), trade_off=0.01, solver=solver).fit(X, Y)
    best = BudgetPruner(forest(), trade_off=0.01).fit(X, Y)
    objective = [one.error_ + 0.01 * one.cost_ for one in (pruner, best)]
    assert objective[0] == pytest.approx(objective[1], rel=1e-2 if solver == "primal_dual" else 1e-9)


def test_a_budget_is_kept_on_the_data_that_prunes():
    pruner = BudgetPruner(forest(), budget=4.0, validation_fraction=0.3).fit(X, Y)
    assert pruner.cost_ <= 4.0 and pruner.trade_off_ > 0
    path = BudgetPruner(forest()).path(X, Y)
    chosen = BudgetPruner(forest(), budget=path[3].cost + 1e-9).fit(X, Y)
    assert (chosen.cost_, chosen.error_) == pytest.approx((path[3].cost, path[3].error))
    assert path[0].cost == 0 and path[-1].forest.predict(X).shape == Y.shape


def test_groups_and_prices_move_what_is_bought():
    dear = np.ones(X.shape[1])
    dear[20:] = 50.0
    plain, wary = (BudgetPruner(forest(), feature_costs=costs, budget=5.0).fit(X, Y) for costs in (None, dear))
    assert wary.used_features(X)[:, 20:].mean() < plain.used_features(X)[:, 20:].mean()
    groups = np.arange(X.shape[1]) % 10  # the same measure of mean, error and worst cell is bought once
    grouped = BudgetPruner(forest(), feature_groups=groups, trade_off=0.01).fit(X, Y)
    assert grouped.costs(X).max() <= 10 and grouped.cost_ == pytest.approx(grouped.costs(X).mean())


def test_permuting_features_changes_nothing():
    order = np.random.default_rng(0).permutation(X.shape[1])
    costs = np.random.default_rng(1).random(X.shape[1])
    tree = {"max_features": None, "random_state": 0, "max_depth": 4}
    one = BudgetPruner(DecisionTreeClassifier(**tree), feature_costs=costs, trade_off=0.01).fit(X, Y)
    other = BudgetPruner(DecisionTreeClassifier(**tree), feature_costs=costs[order], trade_off=0.01).fit(X[:, order], Y)
    assert (one.cost_, one.error_) == pytest.approx((other.cost_, other.error_), rel=0.05)


def test_one_example_is_predicted_from_what_it_buys():
    pruner = BudgetPruner(forest(), trade_off=0.02).fit(X, Y)
    for row in range(20):
        label, bill = pruner.predict_lazy(lambda feature, row=row: X[row, feature])
        assert label == pruner.predict(X[row : row + 1])[0] and bill.cost == pruner.costs(X[row : row + 1])[0]


@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier, DecisionTreeClassifier])
def test_tables_with_missing_values_are_what_arrays_with_them_are(kind):
    holes = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    table = pandas.DataFrame(holes).add_prefix("c")
    said = [BudgetPruner(kind(random_state=0), budget=2.0).fit(x, Y).predict(x) for x in (holes, table)]
    assert np.array_equal(*said)


def test_weights_are_repetitions_and_settings_are_searched():
    weight = np.random.default_rng(0).integers(0, 3, len(Y))
    whole = forest().fit(X, Y)
    heavy = BudgetPruner(whole, trade_off=0.02).fit(X, Y, sample_weight=weight)
    often = BudgetPruner(whole, trade_off=0.02).fit(np.repeat(X, weight, axis=0), np.repeat(Y, weight))
    assert (heavy.cost_, heavy.error_) == pytest.approx((often.cost_, often.error_))
    search = GridSearchCV(BudgetPruner(forest()), {"trade_off": [0.0, 10.0]}, cv=2).fit(X, Y)
    assert search.best_params_ == {"trade_off": 0.0} and clone(search.best_estimator_).trade_off == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "guess"}, "'guess' is unknown"),
        ({"trade_off": -1.0}, "at least 0"),
        ({"budget": 1.0, "trade_off": 0.1}, "not both"),
        ({"budget": 1.0, "solver": "lp"}, "leave solver 'lp' out"),
        ({"forest": AdaBoostClassifier()}, "AdaBoostClassifier cannot be pruned"),
        ({"forest": RandomForestClassifier(2).fit(X[:, :3], Y)}, "fitted on 3 features, X has 30"),
        ({"forest": RandomForestClassifier(2).fit(X[Y == 1], Y[Y == 1])}, "class '0' is none"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        BudgetPruner(**settings).fit(X, Y)


def test_rows_to_prune_on_that_weigh_nothing_are_refused():
    weight = np.zeros(len(Y))
    grown, _ = train_test_split(np.arange(len(Y)), test_size=0.3, random_state=0, stratify=Y)
    weight[grown] = 1.0
    with pytest.raises(InputError, match="weigh nothing"):
        BudgetPruner(forest(), validation_fraction=0.3).fit(X, Y, sample_weight=weight)


def test_forests_need_no_torch():
    code = "import sys, secateur; from secateur import BudgetPruner; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)


FRAME = load_breast_cancer(as_frame=True).data
TURNED = FRAME[FRAME.columns[::-1]]
PRICES = pandas.Series(1.0 + np.arange(30) % 4, index=FRAME.columns)


def boosters():
    lightgbm, xgboost = pytest.importorskip("lightgbm"), pytest.importorskip("xgboost")
    return [lightgbm.LGBMClassifier(n_estimators=4, verbose=-1), xgboost.XGBClassifier(n_estimators=4)]


NAMED = {
    "forest": lambda: RandomForestClassifier(4, random_state=0),
    "tree": lambda: DecisionTreeClassifier(random_state=0),
    "histogram": lambda: HistGradientBoostingClassifier(max_iter=4, random_state=0),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=4, random_state=0),
    "lightgbm": lambda: boosters()[0],
    "xgboost": lambda: boosters()[1],
}


@pytest.mark.parametrize("fitted", [True, False], ids=["fitted", "grown here"])
@pytest.mark.parametrize("kind", NAMED)
def test_columns_go_by_name_and_never_by_place(kind, fitted):
    model = NAMED[kind]()
    model = model.fit(FRAME, Y) if fitted else model
    pruner = BudgetPruner(model, trade_off=0.01).fit(FRAME, Y)
    if fitted:
        other = BudgetPruner(model, trade_off=0.01).fit(TURNED, Y)
        assert (other.cost_, other.error_) == (pruner.cost_, pruner.error_)
    for turned in (TURNED, TURNED.assign(more=1.0)):
        assert np.array_equal(pruner.predict(turned), pruner.predict(FRAME))
        assert np.array_equal(pruner.predict_proba(turned), pruner.predict_proba(FRAME))
        assert np.array_equal(pruner.costs(turned), pruner.costs(FRAME))
        assert pruner.score(turned, Y) == pruner.score(FRAME, Y)
    renamed = FRAME.rename(columns={"worst area": "worst aera"})
    for action in (pruner.predict, pruner.costs, pruner.predict_proba):
        with pytest.raises(InputError, match="'worst area', which.*nearest is 'worst aera'"):
            action(renamed)
    if fitted:
        with pytest.raises(InputError, match="nearest is 'worst aera'"):
            BudgetPruner(model).fit(renamed, Y)
    with pytest.raises(InputError, match="two columns named 'worst area'"):
        pruner.predict(FRAME.rename(columns={"mean area": "worst area"}))
    assert [name.replace(" ", "_") for name in pruner.forest_.feature_names_in_] == [
        name.replace(" ", "_") for name in FRAME.columns
    ]


@pytest.mark.parametrize("kind", NAMED)
def test_an_array_is_taken_in_order_with_a_word(kind):
    model = NAMED[kind]().fit(FRAME, Y)
    with pytest.warns(UserWarning, match="taken in order"):
        pruner = BudgetPruner(model, trade_off=0.01).fit(X, Y)
    assert np.array_equal(pruner.predict(TURNED), BudgetPruner(model, trade_off=0.01).fit(FRAME, Y).predict(FRAME))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        assert np.array_equal(pruner.predict(X), pruner.predict(FRAME))
    with pytest.raises(InputError, match="fitted on 30 features, X has 29"), pytest.warns(UserWarning):
        BudgetPruner(model).fit(X[:, :29], Y)
    with pytest.warns(UserWarning, match="has none: columns are taken in order"):
        BudgetPruner(NAMED[kind]().fit(X, Y)).fit(FRAME, Y)


def test_numbers_of_columns_are_labels_too():
    counted = pandas.DataFrame(X)
    pruner = BudgetPruner(forest(), trade_off=0.01).fit(counted, Y)
    assert np.array_equal(pruner.predict(counted[list(range(29, -1, -1))]), pruner.predict(counted))
    years = pandas.DataFrame(X, columns=range(1990, 2020))
    pruner = BudgetPruner(forest(), feature_costs={year: year - 1989.0 for year in range(1990, 2020)}).fit(years, Y)
    assert np.array_equal(pruner.predict(years[list(range(2019, 1989, -1))]), pruner.predict(years))
    assert pruner.prices_.cost.tolist() == list(range(1, 31))


@pytest.mark.parametrize("kind", NAMED)
@pytest.mark.parametrize("fitted", [True, False], ids=["fitted", "grown here"])
def test_costs_and_groups_go_by_name(kind, fitted):
    model = NAMED[kind]()
    model = model.fit(FRAME, Y) if fitted else model
    wanted = BudgetPruner(model, feature_costs=PRICES.to_numpy(), trade_off=0.001).fit(FRAME, Y)
    for costs in (PRICES[::-1], PRICES.sample(frac=1.0, random_state=0), dict(PRICES[::-1])):
        got = BudgetPruner(model, feature_costs=costs, trade_off=0.001).fit(FRAME, Y)
        assert (got.cost_, got.error_) == (wanted.cost_, wanted.error_)
    sites = pandas.Series([name.split()[-1] for name in FRAME.columns], index=FRAME.columns)
    wanted = BudgetPruner(model, feature_groups=sites.tolist(), trade_off=0.001).fit(FRAME, Y)
    for groups in (sites[::-1], dict(sites[::-1])):
        assert BudgetPruner(model, feature_groups=groups, trade_off=0.001).fit(FRAME, Y).cost_ == wanted.cost_


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_costs": {**PRICES, "mean aera": 1.0}}, "names 'mean aera'.*the nearest is 'mean area'"),
        ({"feature_costs": PRICES.rename({"mean area": "mean aera"})}, "the nearest is 'mean area'"),
        ({"feature_costs": PRICES.iloc[1:]}, "no price for 'mean radius'"),
        ({"feature_costs": PRICES.reset_index(drop=True)}, "names 0, and nothing here is called that"),
        ({"feature_costs": pandas.concat([PRICES, PRICES])}, "names 'mean radius' twice"),
        ({"feature_costs": "free"}, "should hold numbers"),
        ({"feature_costs": [10**400] * 30}, "should hold numbers"),
        ({"feature_costs": [1e200] * 30}, "at most 1e"),
        ({"feature_costs": dict(PRICES) | {"mean area": np.nan}}, "'mean area' costs nan"),
        ({"feature_groups": {"mean aera": "g"}}, "feature_groups names 'mean aera'.*'mean area'"),
        ({"feature_groups": [[1], [2]]}, "names 2 features, and there are 30"),
        ({"trade_off": float("nan")}, "trade_off should be a number of at least 0, got nan"),
        ({"budget": float("nan")}, "budget should be"),
        ({"budget": "8"}, "budget should be a number of at least 0, got '8'"),
    ],
)
def test_names_and_numbers_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        BudgetPruner(forest(), **settings).fit(FRAME, Y)


def test_labels_of_another_kind_and_numbers_beyond_all_are_refused():
    words = forest().fit(X, np.array(["no", "yes"])[Y])
    with pytest.raises(InputError, match="holds numbers such as '0', and the forest was fitted on text such as 'no'"):
        BudgetPruner(words).fit(X, Y)
    with pytest.raises(InputError, match="holds text such as 'no'"):
        BudgetPruner(forest().fit(X, Y)).fit(X, np.array(["no", "yes"])[Y])
    model = forest(RandomForestRegressor).fit(X, Y.astype(float))
    with pytest.raises(NumericalError, match="scale a target"), np.errstate(all="ignore"):
        BudgetPruner(model).fit(X, Y * 1e200)


@pytest.mark.parametrize(
    "forest",
    [
        RandomForestClassifier(5, random_state=0),
        BaggingClassifier(n_estimators=5, max_features=0.5, random_state=0),
        HistGradientBoostingClassifier(max_iter=5, random_state=0),
    ],
    ids=lambda forest: type(forest).__name__,
)
def test_a_pruner_has_what_its_forest_has(forest):
    pruner = BudgetPruner(forest, budget=2.5).fit(X, Y)
    inner = pruner.forest_
    assert pruner.cost_ == pytest.approx(pruner.expected_cost(X)) and pruner.cost_ <= 2.5
    assert np.array_equal(pruner.predict(X), inner.predict(X))
    assert pruner.predict_lazy(lambda number: X[5][number])[0] == inner.predict(X[5:6])[0]
    for name in ("predict_log_proba", "decision_function", "feature_importances_"):
        assert hasattr(pruner, name) == hasattr(inner, name)
        if hasattr(inner, name) and name != "feature_importances_":
            with np.errstate(divide="ignore"):
                assert np.array_equal(getattr(pruner, name)(X), getattr(inner, name)(X))


def test_importances_are_those_of_the_pruned_forest():
    pruner = BudgetPruner(RandomForestClassifier(5, random_state=0), budget=2.0).fit(X, Y)
    asked = np.unique(pruner.arrays_.steps.feature[pruner.arrays_.steps.feature >= 0])
    assert set(np.flatnonzero(pruner.feature_importances_)) == set(asked.tolist())


def test_a_sparse_matrix_is_its_array():
    x = np.where(np.median(X, 0) < X, X, 0)
    one, other = (
        BudgetPruner(RandomForestClassifier(3, random_state=0), budget=2.0).fit(kind, Y) for kind in (x, csr_array(x))
    )
    assert np.array_equal(one.predict(x), other.predict(csr_array(x)))
    assert np.array_equal(one.costs(x), other.costs(csr_array(x)))


@pytest.mark.parametrize("grow", ["none", "static", "frugal"])
@pytest.mark.parametrize("label", [0, 7, "a"])
def test_one_class_has_no_errors_however_it_is_grown(label, grow):
    y = np.full(len(X), label)
    pruner = BudgetPruner(RandomForestClassifier(5, random_state=0), budget=1.0, grow=grow).fit(X, y)
    assert pruner.error_ == 0.0 and (pruner.predict(X) == label).all()


@pytest.mark.parametrize("grow", ["none", "static"])
def test_class_weights_that_are_alike_change_nothing(grow):
    forests = [
        RandomForestClassifier(5, max_depth=3, class_weight=cw, random_state=0) for cw in ({0: 1, 1: 1}, {0: 10, 1: 10})
    ]
    one, other = (BudgetPruner(forest, trade_off=0.02, grow=grow).fit(X, Y) for forest in forests)
    assert (
        0 <= one.error_ <= 1 and one.error_ == pytest.approx(other.error_) and one.cost_ == pytest.approx(other.cost_)
    )
