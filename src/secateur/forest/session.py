"""What the commands do: fit a forest, prune one, write both whole and without pickle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.model_selection import train_test_split

from secateur.core.errors import InputError
from secateur.core.files import new_folder, write_document
from secateur.forest.pruner import BudgetPruner, arrays_of
from secateur.forest.table import Table, load_forest, read_costs, read_table, save_forest, save_onnx
from secateur.forest.usage import read_prices, used_features

__all__ = ["Wish", "fit_forest", "prune_forest"]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A budget, a trade-off, or neither for the whole path; about how many corners are drawn; the solver.

    onnx: whether model.onnx stands beside the one model. peers: whether forests grown
    anew on the same rows stand beside the frontier.
    """

    budget: float | None = None
    trade_off: float | None = None
    points: int = 40
    solver: str = "auto"
    peers: bool = False
    onnx: bool = False


def fit_forest(
    data: Path,
    target: str,
    out: Path,
    *,
    costs: Path | None = None,
    trees: int = 100,
    regression: bool = False,
    jobs: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """model.skops and forest.json of a forest grown on 80% of the rows; the others measure it.

    Raises InputError on tables and costs that cannot be used; `out` then does not exist.
    """
    table = read_table(data, target)
    if regression and not np.issubdtype(table.y.dtype, np.number):
        raise InputError(f"column {target!r} of {data} holds no numbers, and regression predicts one")
    if trees < 1:
        raise InputError(f"a forest has at least 1 tree, got {trees}")
    settings = _settings(costs, table.columns)
    grow, rest = train_test_split(np.arange(len(table.y)), test_size=0.2, random_state=seed)
    with new_folder(out) as folder:
        kind = RandomForestRegressor if regression else RandomForestClassifier
        forest = kind(trees, random_state=seed, n_jobs=jobs).fit(table.x[grow], table.y[grow])
        forest.feature_names = table.columns
        found = {"model": type(forest).__name__, "trees": trees, "rows": len(grow), "columns": table.columns}
        found |= _measure(forest, Table(table.columns, table.x[rest], table.y[rest]), settings)
        save_forest(forest, folder / "model.skops")
        write_document(folder / "forest.json", found)
    return found


def prune_forest(
    model: Path,
    data: Path,
    target: str,
    out: Path,
    wish: Wish,
    *,
    costs: Path | None = None,
    test: Path | None = None,
) -> dict[str, Any]:
    """model.skops, or models by corner for a path, and forest.json with the frontier, bills and use of features.

    Raises InputError or ModelError on anything that cannot be used; `out` then does not exist.
    """
    forest, table = load_forest(model), read_table(data, target)
    judged = table if test is None else read_table(test, target)
    names = getattr(forest, "feature_names", table.columns)
    for one, file in ((table, data), (judged, test or data)):
        if one.columns != names:
            seen, wanted = (", ".join(columns[:8]) for columns in (one.columns, names))
            raise InputError(f"{file} has {len(one.columns)} columns, {seen} first; the forest wants {wanted} first")
    settings = _settings(costs, table.columns)
    pruner = BudgetPruner(forest, budget=wish.budget, trade_off=wish.trade_off or 0.0, solver=wish.solver, **settings)
    with new_folder(out) as folder:
        points = pruner.path(table.x, table.y, points=wish.points)
        path = [
            {"trade_off": _finite(point.trade_off), **_measure(point.forest, judged, settings, short=True)}
            for point in points
        ]
        found: dict[str, Any] = {"model": str(model), "data": str(data), "test": str(test or data), "path": path}
        if wish.peers:
            found["peers"] = _peers(forest, table, judged, settings)
        found["before"] = _measure(forest, judged, settings, short=True)
        if wish.budget is None and wish.trade_off is None:
            for number, point in enumerate(points):
                save_forest(point.forest, folder / f"model-{number:03d}.skops")
        else:
            pruner.fit(table.x, table.y)
            save_forest(pruner.forest_, folder / "model.skops")
            if wish.onnx:
                save_onnx(pruner.forest_, folder / "model.onnx", len(table.columns))
            measured = _measure(pruner.forest_, judged, settings)
            found["chosen"] = {
                "trade_off": _finite(pruner.trade_off_),
                "cost": measured["cost"],
                "error": measured["error"],
            }
            found |= measured
        write_document(folder / "forest.json", found)
    return found


def _peers(forest: Any, table: Table, judged: Table, settings: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Cost and error of forests grown on the rows that prune: by ccp_alpha, and on the features best for their cost.

    Raises InputError on models that have no ccp_alpha.
    """
    if "ccp_alpha" not in forest.get_params():
        raise InputError(f"{type(forest).__name__} has no ccp_alpha to compare with: leave --peers out")
    prices = read_prices(len(table.columns), settings["feature_costs"], settings["feature_groups"])
    worth = forest.feature_importances_ / np.maximum(prices.cost[prices.group], 1e-12)
    order = np.argsort(-worth, kind="stable")
    spread = float(np.var(table.y)) if not is_classifier(forest) else 1.0
    lines: dict[str, list[dict[str, Any]]] = {"ccp_alpha": [], "fewer features": []}
    for alpha in (0.0, *np.geomspace(1e-5, 3e-2, 7)):
        grown = clone(forest).set_params(ccp_alpha=alpha * spread).fit(table.x, table.y)
        lines["ccp_alpha"].append(_measure(grown, judged, settings, short=True))
    for count in np.unique(np.geomspace(1, len(order), 8).astype(int)):
        blind = np.delete(np.arange(len(order)), order[:count])
        seen = table.x.copy()
        seen[:, blind] = 0.0  # no tree splits on what never changes
        lines["fewer features"].append(_measure(clone(forest).fit(seen, table.y), judged, settings, short=True))
    return lines


def _settings(costs: Path | None, columns: list[str]) -> dict[str, Any]:
    if costs is None:
        return {"feature_costs": None, "feature_groups": None}
    prices, groups = read_costs(costs, columns)
    return {"feature_costs": prices, "feature_groups": groups}


def _measure(forest: Any, table: Table, settings: dict[str, Any], *, short: bool = False) -> dict[str, Any]:
    """Error and mean cost; and, unless `short`, every example's bill and how often every feature is used."""
    arrays = arrays_of(forest)
    used = used_features(arrays, table.x)
    prices = read_prices(len(table.columns), settings["feature_costs"], settings["feature_groups"])
    bills = prices.bill(used)
    said = forest.predict(table.x)
    error = np.mean(said != table.y) if is_classifier(forest) else np.mean((said - table.y) ** 2)
    found = {"error": float(error), "cost": float(bills.mean()), "nodes": len(arrays.parent)}
    if short:
        return found
    return found | {"bills": bills.tolist(), "use": dict(zip(table.columns, used.mean(0).tolist(), strict=True))}


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
