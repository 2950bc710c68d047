"""finetune(model, data, out): a real classifier from any encoder, saved whole, resumable."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from secateur.adapt.positions import default_length
from secateur.core.errors import InputError, ModelError
from secateur.core.files import storage_errors, write_document
from secateur.core.seed import generator
from secateur.run.result import versions
from secateur.storage.run_folder import RunFolder
from secateur.storage.shards import Checkpoint
from secateur.storage.source import Source, load_tokenizer, quiet, resolve
from secateur.tasks.classification import Example, classification_task, read_examples
from secateur.tasks.task import score
from secateur.train.classifier import LENGTH, Finetuning, finetune_

__all__ = ["finetune"]

_FRACTION = re.compile(r"[+-]?\d*\.\d*[1-9]\d*(?:[eE][+-]?\d+)?|[+-]?\d+(?:\.\d*)?[eE]-\d+")


class _Data(NamedTuple):
    """Texts with the number of their class, the classes' names, and examples to test on."""

    examples: list[tuple[str, int]]
    names: list[str]
    test: list[Example] | None


def finetune(
    model: str | Path | Source,
    data: str | Path,
    out: str | Path,
    plan: Finetuning | None = None,
    *,
    test: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train a classifier on a .tsv, .csv or .jsonl of labelled texts; returns its loss and accuracy.

    The embeddings stay as they are. Classes are the labels of `data` in their order. `resume` goes on from the last
    saved state with the same bits. Raises a SecateurError on anything that cannot be used; `out` then does not exist.
    """
    plan, read = plan or Finetuning(), _read(data, test)
    folder = RunFolder(Path(out))
    try:
        source = resolve(model)
        result = _run(source, read, plan, folder, resume=resume, progress=progress or (lambda done, steps: None))
        about: dict[str, Any] = {"model": str(model), "trust_remote_code": source.trusted}
        about |= {"data": str(data), "test": None if test is None else str(test), "plan": asdict(plan)}
        with storage_errors(folder.out):
            write_document(folder.model / "finetune.json", {**about, **result})
        folder.finish()
    except BaseException:
        folder.give_up()
        raise
    return result


def _run(
    source: Source,
    data: _Data,
    plan: Finetuning,
    folder: RunFolder,
    *,
    resume: bool,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Train, measure, and write the model."""
    classifier, tokenizer = _classifier(source, data.names, plan.seed)
    folder.open(_plan(source, data, plan), resume=resume)  # after the model: what cannot be loaded leaves no folder
    loss = finetune_(classifier, tokenizer, data.examples, plan, store=folder, progress=progress)
    result: dict[str, Any] = {"classes": data.names, "examples": len(data.examples), "loss": loss}
    if data.test is not None:
        length = default_length(classifier.config, LENGTH) if plan.length is None else plan.length
        task = classification_task(data.test, classifier, tokenizer, length=length)
        result |= {"test_examples": len(data.test), "accuracy": score(task, classifier)}
    target = folder.new_model()
    with storage_errors(target), quiet():
        classifier.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return result


def _plan(source: Source, data: _Data, plan: Finetuning) -> dict[str, Any]:
    """What must be the same for a resumed run to give the same bits: content, not names."""
    examples = hashlib.sha256(json.dumps([data.examples, data.names]).encode()).hexdigest()
    settings = {**asdict(plan), "threads": torch.get_num_threads(), "versions": versions()}
    return {"model": Checkpoint(source.folder).digests(), "examples": examples, **settings}


def _read(data: str | Path, test: str | Path | None) -> _Data:
    examples = _labelled(data)
    names = sorted({str(example.label) for example in examples})
    _check_names(data, names)
    test_examples = None if test is None else _labelled(test)
    strange = sorted({str(example.label) for example in test_examples or ()} - set(names))
    if strange:
        raise InputError(f"{test} has label {strange[0]!r}, which {data} has not: {', '.join(names[:20])}")
    return _Data([(example.text, names.index(str(example.label))) for example in examples], names, test_examples)


def _labelled(path: str | Path) -> list[Example]:
    examples = read_examples(Path(path))
    if examples[0].label is None or examples[0].pair is not None:
        raise InputError(f"{path} should hold one text and one label a line to fine-tune on")
    return examples


def _check_names(data: str | Path, names: list[str]) -> None:
    """Refuse labels that are no classes: one alone, an empty one, or numbers with a fraction."""
    if len(names) < 2:
        raise InputError(f"{data} has one class, {names[0]!r}: a classifier needs two or more")
    for name in names:
        if not name.strip():
            raise InputError(f"{data} has a line with an empty label: name its class")
        if _FRACTION.fullmatch(name.strip()):
            raise InputError(f"{data} has label {name!r}, a number with a fraction: regression is not supported")


def _classifier(source: Source, names: list[str], seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = load_tokenizer(source)
    if tokenizer is None:
        raise InputError(f"{source} has no tokenizer, and texts cannot be read without one")
    try:
        with quiet():
            made, loading = AutoModelForSequenceClassification.from_pretrained(
                source.folder,
                trust_remote_code=source.trusted,
                id2label=dict(enumerate(names)),
                label2id={name: number for number, name in enumerate(names)},
                problem_type="single_label_classification",
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers and safetensors raise many kinds for a broken folder
        raise ModelError(f"{source} cannot be made a classifier: {str(error).splitlines()[0]}") from error
    _draw_new_(made, sorted(loading["missing_keys"]), seed)  # sorted: a set's order differs from run to run
    return made, tokenizer


@torch.no_grad()
def _draw_new_(model: PreTrainedModel, names: list[str], seed: int) -> None:
    """Layers the encoder lacks start as transformers starts them, but from a stream of their own."""
    stream = generator(seed, "classifier")
    for name in names:
        parameter = model.get_parameter(name)
        if parameter.dim() > 1:
            # Transformers would draw from the global stream.
            parameter.normal_(0.0, getattr(model.config, "initializer_range", 0.02), generator=stream)
        else:
            parameter.zero_()
