"""Which decoders can be pruned, of every type that transformers builds: a JSON of results.

.venv/bin/python benchmarks/decoders.py [TYPE ...]

Every type is built tiny and random (tests/tiny_decoders.py), pruned, written, and loaded by plain transformers. Logits
are compared with those of the dense model, changed by hand: masks put on, columns of removed units set to zero, or
removed experts made unreachable. Its loss on windows, a block in memory at a time, is compared with what its own
forward gives.
"""

import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from secateur import Masks, Recipe, SecateurError, prune
from secateur.adapt.structure import kind_of
from secateur.core.cut import Cut
from secateur.evaluate.perplexity import token_losses
from secateur.evaluate.streamed import streamed_perplexity
from secateur.infer.describe import describe_decoder
from secateur.infer.experts import is_experts
from secateur.storage.open_model import open_model
from secateur.storage.source import Source
from tiny_decoders import batch, causal_types, tiny_decoder

ROOT = Path(__file__).parent.parent
TOLERANCE = 1e-3  # of the largest logit; masks must agree to the bit
TRIALS: dict[str, dict[str, Any] | None] = {
    "unstructured": {"method": "wanda", "pattern": "row", "ratio": 0.5},
    "n:m": {"method": "sparsegpt", "pattern": "2:4"},
    "units": {"method": "wanda", "pattern": "heads+channels", "ratio": 0.1},
    "experts": {"method": "reap", "ratio": 0.25},
    "perplexity": None,
}


class Unreachable(TorchFunctionMode):
    """Router outputs of removed experts are so low that no token is sent to them."""

    def __init__(self, model: Any, told: dict[str, Any]) -> None:
        """Find the routers beside the experts; told: what experts.json holds."""
        super().__init__()
        self.rows: dict[int, list[int]] = {}
        for name, kept in told["kept"].items():
            gone = [number for number in range(told["experts"]) if number not in kept]
            place = name.rpartition(".")[0]
            around = [(key, value) for key, value in model.state_dict(keep_vars=True).items() if key.startswith(place)]
            for key, value in around:
                inside = key.startswith(f"{name}.") or "shared" in key
                if not inside and value.dim() == 2 and _counts(len(value), told) and _names_a_router(key):
                    self.rows[value.untyped_storage().data_ptr()] = gone
                if not inside and ("bias" in key or "balanc" in key) and _counts(value.shape[-1], told):
                    value.data[..., gone] = -1e9

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, and lower what a router puts out."""
        out = func(*args, **(kwargs or {}))
        if func is functional.linear and (gone := self.rows.get(args[1].untyped_storage().data_ptr())) is not None:
            out[..., gone] = -1e9
        return out


def _counts(size: int, told: dict[str, Any]) -> bool:
    """Whether a dimension may count experts, and some without weights after them."""
    return bool(told["experts"] <= size <= 2 * told["experts"])


def _names_a_router(key: str) -> bool:
    return any(word in key for word in ("gate.", "router", "classifier"))


def loaded(folder: Path) -> Any:
    """The folder in plain transformers, with nothing missing and nothing left over."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {key: report[key] for key in ("missing_keys", "mismatched_keys", "unexpected_keys") if report[key]}
    if wrong:
        raise AssertionError(f"plain transformers reports {wrong}")
    return model.eval()


@torch.no_grad()
def mask_by_hand(dense: Any, folder: Path, pruned: Any, method: str) -> None:
    """Put a run's masks on the dense model; a method that repairs weights lends its values where masks keep them."""
    own, other = (dict(model.named_parameters(remove_duplicate=False)) for model in (dense, pruned))
    for layer, keep in Masks.load(folder / "masks.safetensors").keep.items():
        stack, _, number = layer.rpartition(".")
        name = next((name for name in (f"{layer}.weight", layer) if name in own), None)
        mine, its = (own[name], other[name]) if name else (own[stack][int(number)], other[stack][int(number)])
        fits = [mask for mask in (keep, keep.T) if mask.shape == mine.shape and not its[~mask].any()]
        mine.copy_(torch.where(fits[0], mine if method == "wanda" else its, 0))


@torch.no_grad()
def zero_by_hand(dense: Any, folder: Path) -> None:
    """Let nothing read the units that a run removed."""
    structure, cut = describe_decoder(dense), Cut.load(folder / "cut.json")
    for site in structure.sites_of(list(cut.kept)):
        gone = [unit for unit in range(site.count) if unit not in cut.kept.get(site.name, range(site.count))]
        layer = structure.layer(site.layer)
        weight = layer.weight.clone()
        weight[:, site.columns[site.layer][gone].flatten()] = 0
        layer.set_weight(weight)


@torch.no_grad()
def trial(folder: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Prune one model one way and compare it with what was done by hand."""
    out = folder.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    try:
        result = prune(folder, Recipe(**settings), out, ids=batch(6))
    except SecateurError as error:
        return {"refused": str(error)}
    seconds = time.perf_counter() - started
    dense, pruned = loaded(folder), loaded(out)
    found = pruned(batch(), use_cache=False).logits
    if name == "experts":
        with Unreachable(dense, json.loads((out / "experts.json").read_text())):
            expected = dense(batch(), use_cache=False).logits
    else:
        if name == "units":
            zero_by_hand(dense, out)
        else:
            mask_by_hand(dense, out, pruned, settings["method"])
        expected = dense(batch(), use_cache=False).logits
    apart = float((found - expected).abs().max() / expected.abs().max())
    limit = 0.0 if name in ("unstructured", "n:m") else TOLERANCE
    return {"ok": bool(apart <= limit), "apart": apart, "sparsity": result.sparsity, "seconds": round(seconds, 2)}


@torch.no_grad()
def losses(folder: Path) -> dict[str, Any]:
    """What `evaluate` and the end of a run measure, against the logits of plain transformers."""
    model, ids = loaded(folder), batch(4)
    logits = model(ids[:, :-1], use_cache=False).logits
    expected = functional.cross_entropy(logits.mT, ids[:, 1:], reduction="none")
    streamed = streamed_perplexity(open_model(Source(folder)), ids)
    found = {"evaluate": float((token_losses(model, ids) - expected).abs().max())}
    if streamed is not None:
        found["streamed"] = abs(math.log(streamed) - float(expected.mean()))
    apart = max(found.values()) / float(expected.max())
    return {"ok": streamed is not None and apart <= TOLERANCE, "apart": apart}


def covered(model_type: str) -> dict[str, Any]:
    """Every trial of one type."""
    try:
        model = tiny_decoder(model_type)
    except Exception as error:
        return {"built": False, "why": f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"}
    kind = kind_of(model.config)
    row: dict[str, Any] = {"built": True, "table": kind is not None and kind.causal}
    structure = describe_decoder(model)
    row["blocks"] = 0 if structure.blocks[0].whole else len(structure.blocks)
    row["mixture"] = any(is_experts(module) for module in model.modules())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "dense"
        model.get_input_embeddings().weight.data[0] = 0  # the padding: youtu's is made 0 as it is loaded
        model.save_pretrained(folder)
        for name, settings in TRIALS.items():
            if name == "experts" and not row["mixture"]:
                continue
            try:
                row[name] = trial(folder, name, settings) if settings else losses(folder)
            except Exception as error:
                row[name] = {"ok": False, "error": f"{type(error).__name__}: {str(error)[:300]}"}
            row[name].setdefault("ok", False)
    return row


def summary(rows: dict[str, Any]) -> dict[str, int]:
    """How many types passed each trial."""
    built = [row for row in rows.values() if row["built"]]
    passed = {name: sum(row.get(name, {}).get("ok", False) for row in built) for name in TRIALS}
    counts = {"types": len(rows), "built": len(built), "mixtures": sum(row["mixture"] for row in built)}
    return counts | passed


def main() -> None:
    """Try every type, or those named, and write benchmarks/results/coverage.json; other types in it stay."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    names = sys.argv[1:]
    target = ROOT / "benchmarks" / "results" / "coverage.json"
    for name in names or causal_types():
        rows: dict[str, Any] = {}
        rows[name] = covered(name)
        told = {key: value if not isinstance(value, dict) else value.get("ok") for key, value in rows[name].items()}
        print(name, told, flush=True)
        known = json.loads(target.read_text())["types"] if target.exists() else {}
        types = dict(sorted((known | rows).items()))
        data = {"summary": summary(types), "types": types}
        target.write_text(json.dumps(data, indent=1) + "\n")
    print(json.dumps(data["summary"], indent=1))


if __name__ == "__main__":
    main()
