"""What the commands do: fit a forest, prune one, write both whole and without pickle."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.model_selection import train_test_split

from secateur.core.errors import InputError
from secateur.core.files import new_folder, write_document
from secateur.forest.kinds import arrays_of
from secateur.forest.labels import check_labels
from secateur.forest.pruner import BudgetPruner, PathPoint
from secateur.forest.table import Table, load_forest, read_costs, read_table, save_forest, save_onnx
from secateur.growth.candidates import GROW
from secateur.registry import check_name
from secateur.trees.usage import Prices, feature_names, named, read_prices, used_features

__all__ = ["ForestOptions", "Growth", "Rows", "fit_forest", "prune_forest"]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """A forest to grow: how many trees, of classes or numbers, on how many cores (-1: all), drawn by which seed.

    grow, budget: as in `BudgetPruner`; a budget needs grow static or frugal. class_weight: balanced weighs every class
    alike, however rare it is.
    """

    trees: int = 100
    regression: bool = False
    jobs: int | None = None
    seed: int = 0
    grow: str = "none"
    budget: float | None = None
    class_weight: str | None = None

    def __post_init__(self) -> None:
        """Raise InputError on numbers out of range."""
        if self.class_weight is not None:
            check_name("class weight", self.class_weight, ("balanced",))
            if self.regression:
                raise InputError("regression has no classes to weigh: leave class-weight out")
        if self.trees < 1:
            raise InputError(f"a forest has at least 1 tree, got {self.trees}")
        if self.jobs == 0:
            raise InputError("no process is none to grow with: jobs is 1 or more, or -1 for all cores")
        check_name("grow", self.grow, GROW)
        if (self.budget is not None) != (self.grow != "none"):
            raise InputError("grow static or frugal and a budget go together: give both, or neither")
        if self.budget is not None and not 0 <= self.budget < np.inf:
            raise InputError(f"budget should be a number of at least 0, got {self.budget}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"a seed is a number from 0 to {2**32 - 1}, got {self.seed}")


@dataclass(frozen=True)
class Rows:
    """Tables and what stands in them: rows to prune on, the column to predict, prices, and rows to measure on.

    costs: None is a price of 1 a feature. test: None is the rows that prune. weight: the column of what rows weigh, in
    both tables; None is 1 each.
    """

    data: Path
    target: str
    costs: Path | None = None
    test: Path | None = None
    weight: str | None = None


@dataclass(frozen=True, kw_only=True)
class ForestOptions:
    """A budget, a trade-off, or neither for the whole path; about how many corners are drawn; the solver.

    onnx: whether model.onnx stands beside the one model. peers: whether forests grown
    anew on the rows that prune stand beside the frontier; they are judged on other rows.
    """

    budget: float | None = None
    trade_off: float | None = None
    points: int = 40
    solver: str = "auto"
    peers: bool = False
    onnx: bool = False

    def __post_init__(self) -> None:
        """Raise InputError on numbers out of range."""
        for name, value in (("budget", self.budget), ("trade_off", self.trade_off)):
            if value is not None and not 0 <= value < np.inf:
                raise InputError(f"{name} should be a number of at least 0, got {value}")
        if self.points < 2:
            raise InputError(f"a frontier has at least 2 points, got {self.points}")


def fit_forest(
    data: Path,
    target: str,
    out: Path,
    growth: Growth | None = None,
    *,
    costs: Path | None = None,
    weight: str | None = None,
) -> dict[str, Any]:
    """model.skops and forest.json of a forest grown on 80% of the rows; the others measure it.

    weight: the column of what rows weigh, in growing and in measuring.
    Raises InputError on tables, costs and numbers that cannot be used; `out` then does not exist.
    """
    growth = growth or Growth()
    seed = growth.seed
    table = read_table(data, target, "numbers" if growth.regression else None, weight=weight)
    _check_target(table.y, f"column {target!r} of {data}", regression=growth.regression)
    settings = _settings(costs, table.columns)
    # An error on rows that grew the trees would be near 0.
    grow, rest = train_test_split(np.arange(len(table.y)), test_size=0.2, random_state=seed)
    with new_folder(out) as folder:
        kind = RandomForestRegressor if growth.regression else RandomForestClassifier
        forest = kind(growth.trees, random_state=seed, n_jobs=growth.jobs)
        if growth.class_weight is not None:
            forest.set_params(class_weight=growth.class_weight)
        grown = table.rows(grow)
        if growth.budget is None:
            forest.fit(_frame(grown), grown.y, sample_weight=grown.weight)
            result: dict[str, Any] = {}
        else:
            pruner = BudgetPruner(forest, budget=growth.budget, grow=growth.grow, n_jobs=growth.jobs, **settings)
            forest = pruner.fit(_frame(grown), grown.y, grown.weight).forest_
            result = {"budget": growth.budget, "grow": growth.grow, "growth": pruner.growth_}
        result |= {"model": type(forest).__name__, "trees": growth.trees, "rows": len(grow), "columns": table.columns}
        result |= {"measured_rows": len(rest), "measured_on": f"{len(rest)} other rows of {data}, drawn by seed {seed}"}
        result |= _measure(forest, table.rows(rest), settings)
        save_forest(forest, folder / "model.skops")
        write_document(folder / "forest.json", result)
    return result


def _check_target(y: Any, where: str, *, regression: bool) -> None:
    numbers = np.issubdtype(y.dtype, np.number)
    if regression and not numbers:
        raise InputError(f"{where} holds no numbers, and regression predicts one")
    if not regression and y.dtype.kind == "f" and (y != np.rint(y)).any():
        raise InputError(
            f"{where} holds {y[y != np.rint(y)][0]}, which is no class: add --regression to predict numbers"
        )


def prune_forest(
    model: Path,
    rows: Rows,
    out: Path,
    options: ForestOptions,
    *,
    finish: Callable[[dict[str, Any], Path], None] = lambda result, folder: None,
) -> dict[str, Any]:
    """model.skops, or models by corner for a path, and forest.json with the frontier, bills and use of features.

    finish: writes more into the folder before it has its name. Raises InputError or
    ModelError on anything that cannot be used; `out` then does not exist.
    """
    data, test = rows.data, rows.test
    if options.peers and test is None:
        raise InputError(
            "peers are grown on the rows of --data, and would be judged on them too: give --test other rows"
        )
    forest = load_forest(model)
    table, judged = (_read_for(forest, file, rows) for file in (data, test or data))
    settings = _settings(rows.costs, table.columns)
    pruner = BudgetPruner(
        forest, budget=options.budget, trade_off=options.trade_off or 0.0, solver=options.solver, **settings
    )
    with new_folder(out) as folder:
        points = pruner.path(named(table.x, feature_names(forest)), table.y, table.weight, points=options.points)
        path = [
            {"trade_off": _finite(point.trade_off), **_measure(point.forest, judged, settings, short=True)}
            for point in points
        ]
        result: dict[str, Any] = {"model": str(model), "data": str(data), "test": str(test or data), "path": path}
        result |= _rows(data, test, len(table.y), len(judged.y))
        result["names"] = "none" if feature_names(forest) is None else "matched"
        if options.peers:
            result["peers"] = _peers(forest, table, judged, settings)
        result["before"] = _measure(forest, judged, settings, short=True)
        if options.budget is None and options.trade_off is None:
            for number, point in enumerate(points):
                save_forest(point.forest, folder / f"model-{number:03d}.skops")
        else:
            chosen, result["chosen"] = _chosen(pruner, points, path, table)
            save_forest(chosen, folder / "model.skops")
            if options.onnx:
                save_onnx(chosen, folder / "model.onnx", len(table.columns))
            measured = _measure(chosen, judged, settings)
            result["chosen"] |= {"cost": measured["cost"], "error": measured["error"]}
            result |= measured
        write_document(folder / "forest.json", result)
        finish(result, folder)
    return result


def _rows(data: Path, test: Path | None, pruned: int, measured: int) -> dict[str, Any]:
    """On which rows every figure stands."""
    said = (
        f"{measured} rows of {test}, which did not prune it"
        if test
        else f"the {measured} rows that prune it, of {data}"
    )
    return {"rows": pruned, "measured_rows": measured, "measured_on": said}


def _chosen(
    pruner: BudgetPruner, points: list[PathPoint], path: list[dict[str, Any]], table: Table
) -> tuple[Any, dict[str, Any]]:
    """The forest of a trade-off; or the corner of least measured error whose measured cost is within the budget.

    Raises InputError when even the cheapest corner costs more.
    """
    if pruner.budget is None:
        pruner.fit(named(table.x, feature_names(pruner.forest)), table.y, table.weight)
        return pruner.forest_, {"trade_off": pruner.trade_off_}
    within = [number for number, point in enumerate(path) if point["cost"] <= pruner.budget]
    if not within:
        least = min(point["cost"] for point in path)
        raise InputError(f"no pruned forest costs at most {pruner.budget:g}: the cheapest costs {least:g}")
    best = min(within, key=lambda number: (path[number]["error"], path[number]["cost"]))
    return points[best].forest, {"trade_off": path[best]["trade_off"], "corners": len(within)}


def _read_for(forest: Any, file: Path, rows: Rows) -> Table:
    """A table with the forest's columns, in its order. Raises InputError on columns and targets that do not fit."""
    classes, target = getattr(forest, "classes_", None), rows.target
    kind = (
        "numbers" if classes is None or classes.dtype.kind in "iuf" else "text" if classes.dtype.kind in "OU" else None
    )
    table = read_table(file, target, kind, feature_names(forest), rows.weight)
    if len(table.columns) != forest.n_features_in_:
        raise InputError(f"{file} has {len(table.columns)} columns, and the forest wants {forest.n_features_in_}")
    if classes is None:
        _check_target(table.y, f"column {target!r} of {file}", regression=True)
    else:
        check_labels(table.y, classes, f"column {target!r} of {file}")
    return table


def _frame(table: Table) -> Any:
    return named(table.x, table.columns)


def _peers(forest: Any, table: Table, judged: Table, settings: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Cost and error of forests grown on the rows that prune: by ccp_alpha, and on the features best for their cost.

    judged: other rows, since a forest makes no errors on those it grew on. Raises InputError on
    models without ccp_alpha.
    """
    if "ccp_alpha" not in forest.get_params():
        raise InputError(f"{type(forest).__name__} has no ccp_alpha to compare with: leave --peers out")
    prices = _prices(table, settings)
    worth = forest.feature_importances_ / np.maximum(prices.cost[prices.group], 1e-12)
    order = np.argsort(-worth, kind="stable")
    spread = float(np.var(table.y)) if not is_classifier(forest) else 1.0
    lines: dict[str, list[dict[str, Any]]] = {"ccp_alpha": [], "fewer features": []}
    for alpha in (0.0, *np.geomspace(1e-5, 3e-2, 7)):
        grown = clone(forest).set_params(ccp_alpha=alpha * spread).fit(_frame(table), table.y, table.weight)
        lines["ccp_alpha"].append(_measure(grown, judged, settings, short=True))
    for count in np.unique(np.geomspace(1, len(order), 8).astype(int)):
        blind = np.delete(np.arange(len(order)), order[:count])
        seen = table.x.copy()
        seen[:, blind] = 0.0  # no tree splits on what never changes
        grown = clone(forest).fit(_frame(table._replace(x=seen)), table.y, table.weight)
        lines["fewer features"].append(_measure(grown, judged, settings, short=True))
    return lines


def _settings(costs: Path | None, columns: list[str]) -> dict[str, Any]:
    if costs is None:
        return {"feature_costs": None, "feature_groups": None}
    prices, groups = read_costs(costs, columns)
    return {"feature_costs": prices, "feature_groups": groups}


def _prices(table: Table, settings: dict[str, Any]) -> Prices:
    return read_prices(len(table.columns), settings["feature_costs"], settings["feature_groups"])


def _measure(forest: Any, table: Table, settings: dict[str, Any], *, short: bool = False) -> dict[str, Any]:
    """Error and mean cost, as rows weigh; and, unless `short`, every row's bill and how often every feature is used."""
    if table.weight is not None and not table.weight.any():
        raise InputError("the rows to measure on all weigh 0: give some of them a weight, or take another --seed")
    arrays = arrays_of(forest)
    used = used_features(arrays, table.x)
    bills = _prices(table, settings).bill(used)
    said = forest.predict(named(table.x, feature_names(forest)))
    errors = said != table.y if is_classifier(forest) else (said - table.y) ** 2
    error, cost = (float(np.average(part, weights=table.weight)) for part in (errors, bills))
    result = {"error": error, "cost": cost, "nodes": len(arrays.parent)}
    if short:
        return result
    use = np.average(used, axis=0, weights=table.weight).tolist()
    return result | {"bills": bills.tolist(), "use": dict(zip(table.columns, use, strict=True))}


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
