"""What the command does: plan, draw, prune, certify, and write what rebuilds the pruned network."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from secateur.core.errors import InputError, ModelError
from secateur.core.files import new_folder, read_document, write_document
from secateur.lottery.certificate import certify
from secateur.lottery.comparison import ACCURACIES, straight_line, width_factors
from secateur.lottery.log_pruning import find_ticket
from secateur.lottery.plan import Lottery, Plan, outline, plan_survey, plan_target, survey
from secateur.lottery.target import Target, digits_target, read_digits, read_target, write_target
from secateur.lottery.ticket import Ticket, load_masks, save_masks

__all__ = ["Draw", "draw_lottery", "load_ticket", "open_target", "read_inputs", "width_table"]

_BUNDLED = "bundled:digits-mlp"


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Which random networks are drawn, and what the winner is run on.

    tries: seeds taken, one after another from `seed`, until nothing is missing. inputs: rows in a .npy file.
    """

    seed: int = 0
    tries: int = 1
    inputs: Path | None = None

    def __post_init__(self) -> None:
        """Raise InputError on no try."""
        if self.tries < 1:
            raise InputError(f"at least 1 try is needed, got {self.tries}")


def open_target(name: str) -> Target:
    """A .safetensors file of linear layers, or bundled:digits-mlp. Raises ModelError for anything else."""
    if name == _BUNDLED:
        return digits_target()
    if not name.endswith(".safetensors") or not os.path.isfile(name):  # noqa: PTH113 - of any name
        raise ModelError(f"target {name!r} is neither a .safetensors file nor {_BUNDLED}")
    return read_target(Path(name))


def read_inputs(path: Path, count: int) -> Float[np.ndarray, "rows inputs"]:
    """Rows of inputs from a .npy file. Raises InputError when it holds something else."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"inputs {path} cannot be read as .npy: {error}") from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu" or rows.ndim != 2 or rows.shape[1] != count:
        what = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, np.ndarray) else "an archive"
        raise InputError(f"inputs {path} hold {what}: the target takes numbers [rows, {count}]")
    if not len(rows) or not np.isfinite(rows).all():
        raise InputError(f"inputs {path} hold NaN, infinite numbers or no row")
    return rows.astype(np.float64)


def width_table(make: Callable[[Lottery], Plan], lottery: Lottery) -> dict[str, Any]:
    """Width factors for eps from 1e-1 to 1e-6, by construction, and our line's fit against log10(1/eps).

    None stands where an eps is beyond what numbers hold, and for the fit of fewer than three.
    """
    factors = width_factors(make, lottery, ACCURACIES)
    known = [(-float(np.log10(eps)), width) for eps, width in zip(ACCURACIES, factors["batch"], strict=True) if width]
    fit = straight_line(*map(list, zip(*known, strict=True)))._asdict() if len(known) > 2 else None
    return {"eps": list(ACCURACIES), "factors": factors, "fit": fit}


def draw_lottery(
    name: str,
    lottery: Lottery,
    out: Path,
    draw: Draw | None = None,
    *,
    illustrate: Callable[[dict[str, Any], Path], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Certificate of a pruned random network, written to `out` with what rebuilds it.

    certificate.json; masks.safetensors, which `load_ticket` turns into the network; product.safetensors, the same
    function as a small dense network; `illustrate` may add figures before the folder gets its name.
    Raises InputError and ModelError on what cannot be used; `out` then does not exist.
    """
    draw = draw or Draw()
    target = open_target(name)
    rows = None if draw.inputs is None else read_inputs(draw.inputs, target.sizes[0])
    with new_folder(out) as folder:
        begun = time.perf_counter()
        known = survey(target, lottery.norm)
        plan = plan_survey(known, lottery)
        for attempt in range(draw.tries):
            ticket = find_ticket(target, plan, draw.seed + attempt, progress=progress)
            if not any(ticket.missing):
                break
        seconds = time.perf_counter() - begun
        result = {"target": name, "sizes": target.sizes, "lottery": asdict(lottery), "seed": ticket.seed}
        product = ticket.product()
        result |= {"tries": attempt + 1, "seconds": seconds} | _result(target, ticket, product, rows, name)
        result["widths"] = width_table(lambda asked: plan_survey(known, asked), lottery)
        save_masks(ticket.masks, folder / "masks.safetensors")
        write_target(target, folder / "target.safetensors")
        write_target(product, folder / "product.safetensors")
        write_document(folder / "certificate.json", result)
        if illustrate is not None:
            illustrate(result, folder)
    return result


def load_ticket(folder: Path) -> Ticket:
    """The pruned network that `draw_lottery` wrote; its weights come from the seed.

    Raises InputError when a file of the folder cannot be read or does not fit the others.
    """
    record = read_document(folder / "certificate.json")
    try:
        plan = plan_target(read_target(folder / "target.safetensors"), Lottery(**record["lottery"]))
        seed, missing = int(record["seed"]), [int(row["missing"]) for row in record["layers"]]
        reached = [int(row["reached"]) for row in record["layers"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'certificate.json'} is not what `secateur lottery` writes: {error}") from error
    return Ticket(plan, seed, load_masks(folder / "masks.safetensors", plan), tuple(reached), tuple(missing))


def _result(target: Target, ticket: Ticket, product: Target, rows: Any, name: str) -> dict[str, Any]:
    """Promised, reached and kept, layer by layer; the certificate; predictions on rows, or the digits' test rows."""
    result = outline(ticket.plan)
    for row, mask, reached, missing in zip(result["layers"], ticket.masks, ticket.reached, ticket.missing, strict=True):
        row |= {"reached": reached, "kept": len(mask.neurons), "edges": len(mask.neurons) + len(mask.outputs)}
        row["missing"] = missing
    result["reached_factor"] = sum(ticket.reached) / ticket.plan.live
    result["kept_factor"] = sum(len(mask.neurons) for mask in ticket.masks) / ticket.plan.live
    result["edges"] = ticket.edges
    certificate = certify(target, ticket)
    result["certificate"] = certificate._asdict() | {"holds": certificate.holds}
    if rows is None and name != _BUNDLED:
        return result
    labels = None
    if rows is None:
        digits = read_digits()
        rows, labels = digits.test, digits.test_labels
    before, after = target(rows).argmax(1), product(rows).argmax(1)
    result["predictions"] = {"rows": len(rows), "same": int((before == after).sum())}
    if labels is not None:
        result["predictions"] |= {
            "accuracy_before": float((before == labels).mean()),
            "accuracy_after": float((after == labels).mean()),
        }
    return result
