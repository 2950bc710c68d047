"""finetune(model, data, out): a real classifier from any encoder, saved whole."""

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from secateur.adapt.positions import default_length
from secateur.core.errors import InputError, ModelError
from secateur.core.files import new_folder, write_document
from secateur.core.seed import generator
from secateur.evaluate.classification import Example, classification_task, read_examples
from secateur.evaluate.task import score
from secateur.storage.source import Source, load_tokenizer, quiet, resolve
from secateur.train.classifier import LENGTH, Finetuning, finetune_

__all__ = ["finetune"]

_FRACTION = re.compile(r"[+-]?\d*\.\d*[1-9]\d*(?:[eE][+-]?\d+)?|[+-]?\d+(?:\.\d*)?[eE]-\d+")


def finetune(
    model: str | Path | Source,
    data: str | Path,
    out: str | Path,
    plan: Finetuning | None = None,
    *,
    test: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train a classifier on a .tsv, .csv or .jsonl of labelled texts; returns its loss and accuracy.

    The embeddings stay as they are. Classes are the labels of `data` in their order.
    Raises a SecateurError on anything that cannot be used; `out` then does not exist.
    """
    plan = plan or Finetuning()
    examples = _labelled(data)
    names = sorted({str(example.label) for example in examples})
    _check_names(data, names)
    labels = [names.index(str(example.label)) for example in examples]
    test_examples = None if test is None else _labelled(test)
    strange = sorted({str(example.label) for example in test_examples or ()} - set(names))
    if strange:
        raise InputError(f"{test} has label {strange[0]!r}, which {data} has not: {', '.join(names[:20])}")
    with new_folder(Path(out)) as folder:
        classifier, tokenizer = _classifier(str(model), names, plan.seed)
        loss = finetune_(classifier, tokenizer, [example.text for example in examples], labels, plan, progress=progress)
        result: dict[str, Any] = {"classes": names, "examples": len(examples), "loss": loss}
        if test_examples is not None:
            length = default_length(classifier.config, LENGTH) if plan.length is None else plan.length
            task = classification_task(test_examples, classifier, tokenizer, length=length)
            result |= {"test_examples": len(test_examples), "accuracy": score(task, classifier)}
        with quiet():
            classifier.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        source = resolve(model)
        about: dict[str, Any] = {"model": str(model), "trust_remote_code": source.trusted}
        about |= {"data": str(data), "test": None if test is None else str(test)}
        write_document(folder / "finetune.json", {**about, "plan": asdict(plan), **result})
    return result


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


def _classifier(model: str | Source, names: list[str], seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    source = resolve(model)
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
    _draw_new_(made, sorted(loading["missing_keys"]), seed)
    return made, tokenizer


@torch.no_grad()
def _draw_new_(model: PreTrainedModel, names: list[str], seed: int) -> None:
    """Layers the encoder lacks start as transformers starts them, but from a stream of their own."""
    stream = generator(seed, "classifier")
    for name in names:
        parameter = model.get_parameter(name)
        if parameter.dim() > 1:
            parameter.normal_(0.0, getattr(model.config, "initializer_range", 0.02), generator=stream)
        else:
            parameter.zero_()
