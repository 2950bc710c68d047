"""One SparseGPT run in this process, ours or a peer's, timed the same way.

Every contender gets the same model folder and the same calibration ids, prunes 50%
of the block matrices and saves a folder that transformers loads; the clock covers
loading, pruning and saving, not imports. Prints one JSON line.

    python benchmarks/peers.py ours MODEL IDS OUT
    python benchmarks/peers.py reference MODEL IDS OUT --script PATH/TO/sparsegpt.py
    python benchmarks/peers.py llmcompressor MODEL IDS OUT
"""

import argparse
import contextlib
import importlib
import io
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

SECATEUR = ("secateur.run.prune", "transformers.models.llama.modeling_llama")
IMPORTS = {"ours": SECATEUR, "reference": SECATEUR, "llmcompressor": ("llmcompressor", "datasets", SECATEUR[1])}


def ours(args: argparse.Namespace, ids: Tensor) -> None:
    """secateur, as `secateur prune --method sparsegpt` runs it."""
    from secateur.run.prune import prune
    from secateur.run.recipe import Recipe

    ratio = None if ":" in args.pattern else 0.5
    recipe = Recipe(method=args.method, pattern=args.pattern, ratio=ratio, dtype=args.dtype)
    prune(args.model, recipe, args.out, ids=ids)


@torch.no_grad()
def reference(args: argparse.Namespace, ids: Tensor) -> None:
    """The authors' class from the script the user points at, fed block by block as in their llama.py."""
    from secateur.calibrate.stream import Stream, StreamSettings
    from secateur.storage.folder import Edits, copy_companions, write_pruned
    from secateur.storage.open_model import open_model
    from secateur.storage.source import Source, load_tokenizer

    sys.path.insert(0, str(Path(args.script).parent))
    solver = importlib.import_module(Path(args.script).stem).SparseGPT
    torch.cuda.synchronize = lambda *_: None  # the class calls it even on a CPU
    source, out = Source(Path(args.model)), Path(args.out)
    out.mkdir(parents=True)
    load_tokenizer(source)
    opened = open_model(source)
    stream = Stream(opened.structure, ids, StreamSettings(batch_tokens=ids.shape[1]))
    with opened.loaded(opened.outside_blocks()):
        stream.embed()
    pruned: dict[str, Tensor] = {}
    for block in opened.structure.blocks:
        with opened.loaded(block.tensors()), contextlib.redirect_stdout(io.StringIO()):
            _reference_block(stream, block, solver, args.pattern)
            pruned |= {name: tensor.clone() for name, tensor in block.tensors().items()}
    copy_companions(source.folder, out)
    write_pruned(opened.checkpoint, out, Edits(tensor=pruned.get))


def _reference_block(stream: Any, block: Any, solver: Any, pattern: str) -> None:
    layers = {name: module for name, module in block.module.named_modules() if isinstance(module, nn.Linear)}
    solvers = {name: solver(module) for name, module in layers.items()}
    handles = [
        module.register_forward_hook(lambda _m, x, y, name=name: solvers[name].add_batch(x[0].data, y.data))
        for name, module in layers.items()
    ]
    for index in range(len(stream.batches)):
        stream.call(block, stream.hidden[index], index)
    for handle in handles:
        handle.remove()
    n, m = (int(part) for part in pattern.split(":")) if ":" in pattern else (0, 0)
    for each in solvers.values():
        each.fasterprune(0.5, prunen=m - n, prunem=m, percdamp=0.01, blocksize=128)
        each.free()
    for index in range(len(stream.batches)):
        stream.hidden[index] = stream.call(block, stream.hidden[index], index)


def llmcompressor(args: argparse.Namespace, ids: Tensor) -> None:
    """llm-compressor's oneshot with its SparseGPT modifier."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = {"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()}
    modifier = SparseGPTModifier(
        sparsity=0.5, mask_structure=args.pattern if ":" in args.pattern else "0:0", ignore=["re:.*lm_head"]
    )
    oneshot(
        model=model,
        processor=tokenizer,
        dataset=Dataset.from_dict(rows),
        recipe=modifier,
        max_seq_length=ids.shape[1],
        num_calibration_samples=len(ids),
    )
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


def main() -> None:
    """Run one contender and print seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=["ours", "reference", "llmcompressor"])
    parser.add_argument("model")
    parser.add_argument("ids")
    parser.add_argument("out")
    parser.add_argument("--script", help="the authors' sparsegpt.py, for `reference`")
    parser.add_argument("--method", default="sparsegpt")
    parser.add_argument("--pattern", default="unstructured")
    parser.add_argument("--dtype", default="float32", help="of `ours`")
    args = parser.parse_args()
    ids = load_file(args.ids)["ids"]
    run = {"ours": ours, "reference": reference, "llmcompressor": llmcompressor}[args.contender]
    for module in IMPORTS[args.contender]:
        importlib.import_module(module)
    started = time.perf_counter()
    run(args, ids)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"contender": args.contender, "seconds": round(seconds, 2), "peak_memory_mb": round(peak)}))


if __name__ == "__main__":
    main()
