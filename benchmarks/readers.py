"""Which classifiers of text or pictures, and wrappers of both, can be pruned, of every type that transformers builds.

.venv/bin/python benchmarks/readers.py [TYPE ...]

Every type is built tiny and random, pruned, written, and loaded by the Auto class of its task. Where single weights
are zero, outputs are compared with those of the dense model that was masked by hand; where units are gone, the
parameters that are gone are counted (tests/laws/test_any_reader.py, test_any_picture.py).
"""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "laws"))

import test_any_picture as pictures
import torch
from test_any_reader import SLOW, check_masks, check_units, logits
from transformers.utils import logging

from secateur import SecateurError
from tiny_decoders import tiny_decoder
from tiny_pictures import KINDS, tiny_pictures

TARGET = Path(__file__).parent / "results" / "readers.json"
TRIALS = {
    "unstructured": check_masks,
    "n:m": partial(check_masks, method="sparsegpt", pattern="2:4"),
    "units": check_units,
}
OF_PICTURES = {
    "unstructured": lambda name, place, _: pictures.check_masks(name, place),
    "n:m": lambda name, place, _: pictures.check_masks(name, place, "sparsegpt", "2:4"),
    "units": lambda name, place, _: pictures.check_units(name, place),
}


def covered(name: str, auto: Any) -> dict[str, Any]:
    """Every trial of one type."""
    try:
        _ = logits(tiny_decoder(name, auto)) if auto else pictures.logits(tiny_pictures(name))
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        return {"built": False, "why": f"{type(error).__name__}: {said[:160]}"}
    row: dict[str, Any] = {"built": True}
    for trial, run in (TRIALS if auto else OF_PICTURES).items():
        with tempfile.TemporaryDirectory() as place:
            try:
                run(name, Path(place), auto)
                row[trial] = {"ok": True}
            except SecateurError as error:
                row[trial] = {"ok": False, "refused": str(error)[:300]}
            except Exception as error:
                row[trial] = {"ok": False, "error": f"{type(error).__name__}: {str(error)[:200]}"}
    return row


def summary(rows: dict[str, Any]) -> dict[str, int]:
    """How many types passed each trial."""
    built = [row for row in rows.values() if row["built"]]
    return {"types": len(rows), "built": len(built)} | {
        trial: sum(row[trial]["ok"] for row in built) for trial in TRIALS
    }


def main() -> None:
    """Try every type, or those named, and write benchmarks/results/readers.json; other types in it stay."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    known: dict[str, Any] = json.loads(TARGET.read_text())["types"] if TARGET.exists() else {}
    for name, auto in [*SLOW, *((name, None) for name in KINDS)]:
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        task = "classifier" if auto and "Classification" in auto.__name__ else "wrapper" if auto else "pictures"
        row = covered(name, auto)
        known.setdefault(task, {})[name] = row
        print(
            name, {key: value if not isinstance(value, dict) else value["ok"] for key, value in row.items()}, flush=True
        )
        counts = {task: summary(rows) for task, rows in known.items()}
        TARGET.write_text(json.dumps({"summary": counts, "types": known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
