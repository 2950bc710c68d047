"""BudgetPruner: a scikit-learn estimator that prunes a forest under the cost of acquiring features."""

import copy
import numbers
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import train_test_split
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from secateur.core.errors import InputError
from secateur.forest.boosted import check_names, distance_errors, is_boosted
from secateur.forest.kinds import arrays_of, is_prunable, rebuilt
from secateur.forest.labels import check_weight, class_weights, numbered
from secateur.growth.candidates import GROW, Rows
from secateur.growth.choose import Choice, best, choices, slopes
from secateur.trees.frontier import Point, frontier, within_budget
from secateur.trees.integer_program import IntegerProgram, build_program, class_errors, square_errors
from secateur.trees.linear_program import linear_program
from secateur.trees.min_cut import min_cut
from secateur.trees.primal_dual import PrimalDual
from secateur.trees.tree_arrays import Forest
from secateur.trees.usage import Bill, Prices, answer, feature_names, in_order, named, read_prices, used_features

__all__ = ["SOLVERS", "BudgetPruner", "PathPoint"]

SOLVERS: Mapping[str, Callable[[IntegerProgram, float], Any]] = {
    "auto": min_cut,
    "min_cut": min_cut,
    "primal_dual": lambda program, trade_off: PrimalDual().solve(program, trade_off).keep,
    "lp": linear_program,
}


class PathPoint(NamedTuple):
    """A corner of the frontier: from which trade-off down it is best, mean cost and error of a tree, and its forest."""

    trade_off: float
    cost: float
    error: float
    forest: Any


@dataclass(frozen=True, eq=False)
class _Task:
    """A fitted forest and what it is pruned on."""

    forest: Any
    arrays: Forest
    program: IntegerProgram


def _forest_has(name: str) -> Callable[[Any], bool]:
    return lambda pruner: hasattr(getattr(pruner, "forest_", pruner._forest()), name)


class BudgetPruner(MetaEstimatorMixin, BaseEstimator):
    """Least expected error + trade_off x expected feature cost, exactly (Nan, Wang, Saligrama 2016).

    forest: a random forest, extra trees, decision tree, bagging of trees or gradient boosting (by
    histograms too) of scikit-learn, or LightGBM's or XGBoost's estimators; fitted ones are pruned as
    they are, others are fitted first; default a RandomForestClassifier. feature_costs:
    of every feature, default 1; with feature_groups, of every group bought together, and
    then of every feature in none (None). Both may be a mapping or a pandas Series, which
    go by name, as columns of X do. budget: largest mean cost, instead of a trade_off.
    validation_fraction: this share of the data, drawn by the forest's seed, prunes and
    does not grow the trees. solver:
    min_cut (auto), primal_dual or lp. n_jobs: for walking trees; the forest has its own.
    grow: none grows the forest as it is. static also grows it on the features best by importance for their cost, as
    many as may pay. frugal beside that grows trees whose splits pay for features. The growth and the pruning whose
    vote errs least out of bag are taken; random forests only, and `error_` is then the vote's.

    The error is that of a tree alone, averaged over trees: wrong classes, or squared
    distance. What boosting loses does not add up over trees: there it is the squared
    distance between what a tree adds and what it added, exact for that alone.
    `forest_` is scikit-learn's again; `cost_` and `error_` are the means on the data it
    was pruned on, `trade_off_` where on the frontier it lies.
    """

    def __init__(
        self,
        forest: Any = None,
        *,
        feature_costs: Any = None,
        feature_groups: Any = None,
        trade_off: Any = 0.0,
        budget: Any = None,
        solver: Any = "auto",
        n_jobs: Any = None,
        validation_fraction: Any = None,
        grow: Any = "none",
    ) -> None:
        """Keep the settings; `fit` checks them."""
        self.forest = forest
        self.feature_costs = feature_costs
        self.feature_groups = feature_groups
        self.trade_off = trade_off
        self.budget = budget
        self.solver = solver
        self.n_jobs = n_jobs
        self.validation_fraction = validation_fraction
        self.grow = grow

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "BudgetPruner":  # noqa: N803 - scikit-learn's name
        """Prune on X `[examples, features]` and y. Raises InputError on settings or forests that cannot be used."""
        self._check()
        if self.grow != "none":
            return self._taken(self._choices(X, y, sample_weight))
        task = self._open(X, y, sample_weight)
        if self.budget is not None:
            point = within_budget(task.program, lambda keep: task.program.value(keep).cost, self.budget)
            if point is None:
                raise InputError(f"no pruned forest costs at most {self.budget}: free features alone cost more")
            keep, self.trade_off_ = point.keep, point.trade_off
        else:
            keep, self.trade_off_ = SOLVERS[self.solver](task.program, self.trade_off), self.trade_off
        value = task.program.value(keep)
        self.cost_, self.error_ = value.cost, value.error
        return self._keep(_rebuilt(task, keep))

    def _taken(self, found: list[Choice]) -> "BudgetPruner":
        one = best(found, budget=self.budget, trade_off=self.trade_off)
        if one is None:
            raise InputError(f"no pruned forest costs at most {self.budget}: free features alone cost more")
        self.cost_, self.error_, self.growth_ = one.cost, one.error, one.words
        place = next(place for place, other in enumerate(found) if other is one)
        self.trade_off_ = self.trade_off if self.budget is None else slopes(found)[place]
        forest = _rebuilt(one, one.keep)
        if feature_names(self) is not None:
            forest.feature_names_in_ = np.array(feature_names(self), dtype=object)
        return self._keep(forest)

    def _keep(self, forest: Any) -> "BudgetPruner":
        self.forest_ = forest
        self.arrays_ = arrays_of(self.forest_)
        if is_classifier(self.forest_):
            self.classes_ = self.forest_.classes_
        return self

    def path(self, X: Any, y: Any, sample_weight: Any = None, *, points: int | None = None) -> list[PathPoint]:  # noqa: N803
        """Every best trade of error for cost, cheapest first; with `points`, about that many, and all near a budget.

        With grow, points are of several forests: errors are those of the vote out of bag, and slopes need not fall.
        """
        self._check()
        if self.grow != "none":
            return _grown_path(self._choices(X, y, sample_weight), points)
        task = self._open(X, y, sample_weight)
        corners: list[Point] = frontier(task.program, points=points, budget=self.budget)
        return [PathPoint(p.trade_off, p.value.cost, p.value.error, _rebuilt(task, p.keep)) for p in corners]

    def predict(self, X: Any) -> Any:  # noqa: N803
        """What the pruned forest predicts."""
        return self._fitted().predict(self._table(X))

    @available_if(_forest_has("predict_proba"))
    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """Class probabilities of the pruned forest, `[examples, classes]`."""
        return self._fitted().predict_proba(self._table(X))

    @available_if(_forest_has("predict_log_proba"))
    def predict_log_proba(self, X: Any) -> Any:  # noqa: N803
        """Their logarithms, `[examples, classes]`."""
        return self._fitted().predict_log_proba(self._table(X))

    @available_if(_forest_has("decision_function"))
    def decision_function(self, X: Any) -> Any:  # noqa: N803
        """What a boosted classifier sums up, `[examples]`, or `[examples, classes]` of more than two."""
        return self._fitted().decision_function(self._table(X))

    @property
    def feature_importances_(self) -> Any:
        """Importance of every feature for the pruned forest, `[features]`; 0 for one that no tree asks for."""
        return self._fitted().feature_importances_

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """Accuracy of a classifier, R2 of a regressor."""
        return self._fitted().score(self._table(X), y, sample_weight)

    def used_features(self, X: Any) -> Any:  # noqa: N803
        """Whether an example needs a feature, `[examples, features]`."""
        self._fitted()
        return used_features(self.arrays_, self._seen(X))

    def costs(self, X: Any) -> Any:  # noqa: N803
        """What every example pays, `[examples]`."""
        return self.prices_.bill(self.used_features(X))

    def expected_cost(self, X: Any) -> float:  # noqa: N803
        """Mean of what examples pay."""
        return float(self.costs(X).mean())

    def predict_lazy(self, acquire: Callable[[int], Mapping[int, float] | float]) -> tuple[Any, Bill]:
        """Predict one example, acquiring a feature only when a node asks; and the bill.

        acquire: called with a feature's number (its place among the columns the forest was fitted on, from 0),
        gives its value, or the values of its whole group by number.
        """
        forest = self._fitted()
        if is_boosted(forest):
            known: dict[int, float] = {}
            _, bill = answer(self.arrays_, self.prices_, acquire, known)
            row = np.full((1, self.n_features_in_), 0.0)  # no node asks for what is not known
            row[0, list(known)] = list(known.values())
            return forest.predict(named(row, feature_names(forest)))[0], bill
        value, bill = answer(self.arrays_, self.prices_, acquire)
        return (forest.classes_[value.argmax()] if is_classifier(forest) else float(value[0])), bill

    def __sklearn_tags__(self) -> Any:
        """Those of the forest: classifier or regressor, missing values or not."""
        tags = super().__sklearn_tags__()
        inner = get_tags(self._forest())
        tags.estimator_type = inner.estimator_type
        tags.classifier_tags, tags.regressor_tags = copy.copy(inner.classifier_tags), inner.regressor_tags
        if tags.classifier_tags is not None:
            tags.classifier_tags.multi_label = False
        tags.target_tags.required = True
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = inner.input_tags.allow_nan
        return tags

    def _forest(self) -> Any:
        return RandomForestClassifier() if self.forest is None else self.forest

    def _check_growth(self) -> None:
        if self.grow not in GROW:
            raise InputError(f"grow {self.grow!r} is unknown: use {', '.join(GROW)}")
        if self.grow != "none" and (self.solver not in ("auto", "min_cut") or self.validation_fraction is not None):
            raise InputError("grow prunes by min_cut and judges out of bag: leave solver and validation_fraction out")
        if self.grow != "none" and self._is_fitted():
            raise InputError(f"grow={self.grow!r} grows forests, and the one given is fitted: give an unfitted one")

    def _check(self) -> None:
        self._check_growth()
        if self.solver not in SOLVERS:
            raise InputError(f"solver {self.solver!r} is unknown: use {', '.join(SOLVERS)}")
        for name, value in (("trade_off", self.trade_off), ("budget", 0.0 if self.budget is None else self.budget)):
            if not isinstance(value, numbers.Real) or not float(value) >= 0:
                raise InputError(f"{name} should be a number of at least 0, got {value!r}")
        if self.budget is not None and self.trade_off:
            raise InputError("give a budget or a trade_off, not both: a budget finds its own trade-off")
        if self.budget is not None and self.solver not in ("auto", "min_cut"):
            raise InputError(f"a budget is found on min_cut's frontier: leave solver {self.solver!r} out")
        if not is_prunable(self._forest()):
            raise InputError(
                f"{type(self._forest()).__name__} cannot be pruned here: give a RandomForest, ExtraTrees, "
                "DecisionTree, Bagging of trees, (Hist)GradientBoosting, LGBM or XGB estimator, classifier or regressor"
            )

    def _open(self, X: Any, y: Any, sample_weight: Any) -> _Task:  # noqa: N803
        """Fit the forest where it is not, and set up the program on the data that prunes."""
        fitted, classifier = self._is_fitted(), is_classifier(self._forest())
        X, y, weight = self._read(X, y, sample_weight)  # noqa: N806
        forest, rows = self._grown(X, y, weight if sample_weight is not None else None, fitted=fitted)
        X, y, weight = X[rows], y[rows], weight[rows]  # noqa: N806
        check_weight(weight)
        arrays = arrays_of(forest)
        leaves = arrays.leaves(X, self.n_jobs)
        if is_boosted(forest):
            error = distance_errors(arrays, leaves, weight)
        elif classifier:
            error = class_errors(arrays, leaves, numbered(y, forest.classes_), class_weights(forest, y, weight))
        else:
            error = square_errors(arrays, leaves, y.astype(float), weight)
        program = build_program(arrays, leaves, error, self.prices_.group, self.prices_.cost, weight)
        return _Task(forest, arrays, program)

    def _read(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:  # noqa: N803
        """Checked rows, targets and weights; prices are read with them."""
        fitted = self._is_fitted()
        X = self._matched(_dense(X), fitted)  # noqa: N806
        numeric = not is_classifier(self._forest())
        settings = {"dtype": self._dtype(), "ensure_all_finite": self._finite(), "y_numeric": numeric}
        X, y = validate_data(self, X, y, **settings)  # noqa: N806
        names = feature_names(self)
        if fitted and names is None and feature_names(self._forest()) is not None:
            self.feature_names_in_ = np.array(feature_names(self._forest()), dtype=object)
        self.prices_: Prices = read_prices(X.shape[1], self.feature_costs, self.feature_groups, feature_names(self))
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return X, y, np.ldexp(weight, 1 - np.frexp(weight.max())[1])  # exact: products of tiny weights would be 0

    def _choices(self, X: Any, y: Any, sample_weight: Any) -> list[Choice]:  # noqa: N803
        """What several growths come to, each pruned."""
        X, y, paid = self._read(X, y, sample_weight)  # noqa: N806
        forest = self._forest()
        weight = class_weights(forest, y, paid)
        if is_classifier(forest):
            label, number = np.unique(y, return_inverse=True)[1].ravel(), np.ones(len(y))
        else:
            y = y.astype(float)
            label, number = np.zeros(len(y), np.int64), y
        rows = Rows(X, y, label.astype(np.int64), number, weight, paid, is_classifier(forest))
        return choices(forest, rows, self.prices_, self.grow, self.budget, self.n_jobs)

    def _is_fitted(self) -> bool:
        try:
            check_is_fitted(self._forest())
        except NotFittedError:
            return False
        return True

    def _matched(self, X: Any, fitted: bool) -> Any:  # noqa: N803
        """X in the order the forest knows; a name on one side alone is warned of, as scikit-learn does."""
        names = feature_names(self._forest()) if fitted else None
        X = in_order(X, names, spaces=self._spaces())  # noqa: N806
        kind, has = type(self._forest()).__name__, isinstance(next(iter(getattr(X, "columns", ())), None), str)
        if fitted and names is not None and not has:
            warnings.warn(f"X does not have valid feature names: those {kind} has are taken in order", stacklevel=4)
        if fitted and names is None and has:
            warnings.warn(f"X has feature names, and {kind} has none: columns are taken in order", stacklevel=4)
        return X

    def _spaces(self) -> bool:
        return not type(self._forest()).__module__.startswith("lightgbm")

    def _dtype(self) -> Any:
        return np.float64 if type(self._forest()).__name__.startswith(("Hist", "LGBM")) else np.float32

    def _finite(self) -> bool | str:
        return "allow-nan" if get_tags(self._forest()).input_tags.allow_nan else True

    def _grown(self, X: Any, y: Any, weight: Any, *, fitted: bool) -> tuple[Any, Any]:  # noqa: N803
        """A fitted forest and the rows that prune it."""
        every = grow = np.arange(len(X))
        forest = self._forest()
        if fitted:
            if forest.n_features_in_ != X.shape[1]:
                raise InputError(f"the forest was fitted on {forest.n_features_in_} features, X has {X.shape[1]}")
            return forest, every
        forest = clone(forest)
        if self.validation_fraction is not None:
            strata = y if is_classifier(forest) and np.unique(y, return_counts=True)[1].min() > 1 else None
            share = self.validation_fraction
            seed = getattr(forest, "random_state", None)
            grow, every = train_test_split(every, test_size=share, random_state=seed, stratify=strata)
        check_names(forest, feature_names(self))
        table = named(X[grow].astype(np.float64), feature_names(self))  # scikit-learn copies it to float32, and writes
        return forest.fit(table, y[grow], sample_weight=None if weight is None else weight[grow]), every

    def _fitted(self) -> Any:
        check_is_fitted(self, "forest_")
        return self.forest_

    def _seen(self, X: Any) -> Any:  # noqa: N803
        names = feature_names(self)
        X = in_order(_dense(X), names, spaces=self._spaces())  # noqa: N806
        if names is not None and hasattr(X, "set_axis"):
            X = X.set_axis(names, axis=1)  # noqa: N806
        return validate_data(self, X, reset=False, dtype=self._dtype(), ensure_all_finite=self._finite())

    def _table(self, X: Any) -> Any:  # noqa: N803
        """X as the pruned forest knows it, by name where it has names."""
        return named(self._seen(X), feature_names(self._fitted()))


def _dense(X: Any) -> Any:  # noqa: N803
    """X, a sparse matrix as an array: costs are counted at every node of every example."""
    return X.toarray() if issparse(X) else X


def _grown_path(found: list[Choice], points: int | None) -> list[PathPoint]:
    """Choices of several growths as points, about so many of them; the cheapest and the dearest always."""
    places = np.unique(np.linspace(0, len(found) - 1, points or len(found)).round().astype(int))
    taken = [found[place] for place in places]
    return [
        PathPoint(slope, one.cost, one.error, _rebuilt(one, one.keep))
        for slope, one in zip(slopes(taken), taken, strict=True)
    ]


def _rebuilt(task: _Task | Choice, keep: Any) -> Any:
    """The forest with only these splits, as scikit-learn's own."""
    return rebuilt(task.forest, task.arrays, task.program.splits(keep, len(task.arrays.parent)))
