"""recover(model, text, out, training): train a pruned model and save it, resumable."""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.adapt.positions import check_ids, default_length
from secateur.calibrate.data import Calibration
from secateur.core.files import storage_errors, write_document
from secateur.core.shapes import TokenIds
from secateur.evaluate.perplexity import token_losses
from secateur.machine.memory import peak_memory_mb
from secateur.report.card import write_card
from secateur.run.result import versions
from secateur.storage.folder import Edits, copy_companions, write_pruned
from secateur.storage.open_model import OpenModel, open_model
from secateur.storage.run_folder import RunFolder
from secateur.storage.shards import Checkpoint
from secateur.storage.source import (
    Source,
    check_language,
    load_tokenizer,
    load_with_head,
    open_whole,
    read_config,
    resolve,
)
from secateur.train.recover import Trainer, Training

__all__ = ["recover"]

_EVERY = 25  # steps between saved states
_KEPT = ("masks.safetensors", "cut.json", "blocks.json")  # what was pruned stays true of the trained model
_LENGTH = 512  # tokens of a window where none are told
_HELD = 16  # held-out windows, at most a tenth of the text


def recover(
    model: str | Path | Source,
    text: str,
    out: str | Path,
    training: Training | None = None,
    *,
    teacher: str | None = None,
    resume: bool = False,
    trust_remote_code: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train the layers of a pruned model's blocks on a text; zeros and shapes stay as they are.

    Computes in float32 and stores each tensor's own dtype. `resume` goes on from the last
    saved state with the same bits. Returns what recover.json holds: loss on held-out windows
    before and after, seconds, peak memory. Raises a SecateurError with one
    sentence on anything that cannot be done; `out` then does not exist.
    """
    folder = RunFolder(Path(out))
    try:
        source = resolve(model, trusted=trust_remote_code)
        guide = None if teacher is None else resolve(teacher, trusted=trust_remote_code)
        tell = progress or (lambda done, steps: None)
        named = {"model": str(model), "text": text, "teacher": teacher}
        return _run((source, guide), named, folder, training or Training(), resume=resume, progress=tell)
    except BaseException:
        folder.give_up()
        raise


def _run(
    sources: tuple[Source, Source | None],
    named: dict[str, Any],
    folder: RunFolder,
    training: Training,
    *,
    resume: bool,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    started = time.perf_counter()
    source, teacher, text = *sources, str(named["text"])
    config, samples = read_config(source), training.steps * training.batch
    training = replace(training, length=training.length or default_length(config, _LENGTH))
    plan = Calibration(source=text, samples=samples, length=training.length, seed=training.seed)
    plan = replace(plan, text_column=training.text_column)
    drawn, held = plan.draw_apart(load_tokenizer(source), _HELD, share=0.1)
    for ids in (drawn, held):
        check_ids(ids, config, f"text {text!r}")
    # Loaded before the folder is opened: a run that cannot start leaves none.
    guide = None if teacher is None else load_with_head(teacher, torch.float32)
    structure = open_whole(source, torch.float32)
    check_language(structure.model, "it is trained on next tokens of text: fine-tune it on its own task elsewhere")
    trainer = Trainer(structure, training, guide)
    folder.open(_plan(sources, drawn, training), resume=resume)
    before = _loss(trainer, held)
    trainer.loop.run(drawn.split(training.batch), store=folder, every=_EVERY, progress=progress)
    found = {
        **named,
        "trust_remote_code": source.trusted,
        "training": {**asdict(training), "rate": training.peak},
        "before": before,
        "after": _loss(trainer, held),
        "windows": len(held),
        "out": str(folder.out),
        "seconds": time.perf_counter() - started,
        "peak_memory_mb": peak_memory_mb(),
        "versions": versions(),
    }
    _write(open_model(source), folder, trainer.changes.settle(), found)
    return found


def _plan(sources: tuple[Source, Source | None], drawn: TokenIds, training: Training) -> dict[str, Any]:
    """What must be the same for a resumed run to give the same bits: content, not names."""
    model, teacher = (None if source is None else Checkpoint(source.folder).digests() for source in sources)
    ids = hashlib.sha256(drawn.numpy().tobytes()).hexdigest()  # a text file that was edited is another run
    threads = torch.get_num_threads()
    settings = {**asdict(training), "threads": threads, "versions": versions()}
    return {"model": model, "teacher": teacher, "text ids": ids, **settings}


def _loss(trainer: Trainer, ids: TokenIds) -> float:
    """Mean negative log-likelihood, nats a token."""
    parts = [token_losses(trainer.model, part).flatten() for part in ids.split(trainer.training.batch)]
    return float(torch.cat(parts).double().mean())


def _write(opened: OpenModel, folder: RunFolder, trained: Mapping[str, Tensor], found: dict[str, Any]) -> None:
    checkpoint = opened.checkpoint
    target = folder.new_model()

    def changed(name: str) -> Tensor | None:
        layer, _, leaf = opened.model_name(name).rpartition(".")
        return trained[layer].to(checkpoint.info(name)[0]) if leaf == "weight" and layer in trained else None

    with storage_errors(target):
        copy_companions(opened.source.folder, target, code=opened.source.trusted)
        for name in _KEPT:
            if (opened.source.folder / name).exists():
                shutil.copyfile(opened.source.folder / name, target / name)
        write_pruned(checkpoint, target, Edits(tensor=changed))
        write_document(target / "recover.json", found)
        write_card(target, folder.out.name, opened.source.folder)
    folder.finish()
