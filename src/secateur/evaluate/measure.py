"""measure(model, ...) -> perplexity and accuracies under lm-eval's names; or accuracy on pictures."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from secateur.adapt.positions import check_length, default_length
from secateur.core.errors import InputError
from secateur.evaluate.choices import DTYPES
from secateur.evaluate.perplexity import Perplexity
from secateur.evaluate.zeroshot import ZeroShot, read_questions
from secateur.machine.device import pick_device
from secateur.registry import check_name
from secateur.storage.source import Source, load_as_saved, load_model, load_tokenizer, read_config, resolve
from secateur.tasks.classification import picture_task

__all__ = ["measure", "measure_pictures"]


def measure(
    model: str | Path | Source,
    perplexity: str | Perplexity | None = None,
    tasks: Sequence[Path] = (),
    *,
    limit: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a model: keys `perplexity` and `tokens`, and `tasks.NAME.acc` and `acc_norm`.

    perplexity: a text, or a Perplexity that says its windows too. limit: first rows of each task only. device: where
    it is computed; auto takes a GPU where there is one. progress
    counts the windows of the text, then the questions of each task. Everything is checked before the model is
    loaded. Raises InputError when nothing is asked for or cannot be read.
    """
    text = Perplexity(source=perplexity) if isinstance(perplexity, str) else perplexity
    if text is None and not tasks:
        raise InputError(
            "nothing to measure: give --perplexity TEXT, --tasks FILE.jsonl, or --images DIR for a classifier"
        )
    if text is not None and not text.source.strip():
        raise InputError(f"perplexity {text.source!r} names no text: give a file, datasets:NAME or bundled")
    check_name("dtype", dtype, DTYPES)
    place = pick_device(device)
    for path in tasks:
        read_questions(path, limit)  # read for its errors alone, before minutes of loading
    source = resolve(model)
    config = read_config(source)
    if text is not None:
        length = text.length or default_length(config)
        text = replace(text, length=length)
        check_length(length, config, "perplexity")
    tokenizer = load_tokenizer(source)
    if tokenizer is None:
        raise InputError(f"{source} has no tokenizer, and texts cannot be scored without one")
    loaded: Any = load_model(source, torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    loaded.to(place)
    tell = progress or (lambda done, total: None)
    results: dict[str, Any] = {}
    if text is not None:
        results |= text.measure(loaded, tokenizer, tell)
    for path in tasks:
        results.setdefault("tasks", {})[path.stem] = ZeroShot(path=path, limit=limit).measure(loaded, tokenizer, tell)
    return results


def measure_pictures(
    model: str | Path | Source, images: str | Path, *, dtype: str = "auto", device: str = "auto"
) -> dict[str, Any]:
    """The top-1 accuracy of a classifier of transformers on the pictures of a folder or .zip, and how many there are.

    Raises InputError where the model is no such classifier, or folders tell no classes.
    """
    check_name("dtype", dtype, DTYPES)
    source = resolve(model)
    loaded: Any = load_as_saved(source, torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    if not type(loaded).__name__.endswith("ForImageClassification"):
        raise InputError(f"{source} is a {type(loaded).__name__}, which does not classify pictures")
    task = picture_task(images, loaded, source)
    if task.metric != "accuracy":
        raise InputError("accuracy needs classes: put pictures into a folder for each class")
    place = pick_device(device)
    kinds = {"pixel_values": loaded.dtype, "labels": torch.int64}
    moved = [{name: value.to(place, kinds[name]) for name, value in batch.items()} for batch in task.batches]
    total = replace(task, batches=moved).parts(loaded.to(place)).sum(axis=0)
    return {"top1": float(task.value(total)), "pictures": int(total[1])}
