"""TaskModel: a model opened with its task head, its attentions, and what it is judged by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.adapt.attention import Attention
from secateur.adapt.positions import check_ids, check_length, default_length
from secateur.adapt.structure import Structure
from secateur.core.errors import InputError, ModelError
from secateur.core.files import read_document
from secateur.infer.blocks import reads_pictures
from secateur.score.heads import HeadLayout
from secateur.storage.source import Source, load_tokenizer, open_whole, resolve
from secateur.tasks.answers import embedding_task, labels_task, regression_task
from secateur.tasks.classification import classification_task, picture_task, read_examples
from secateur.tasks.language import language_task
from secateur.tasks.questions import choices_task, spans_task
from secateur.tasks.tags import tags_task
from secateur.tasks.task import Task
from secateur.tasks.translation import read_pairs, translation_task

__all__ = ["DataOptions", "TaskModel", "TaskName", "open_task_model"]

TaskName = Literal["classify", "lm", "translate", "tag", "embed", "answer", "choose"]
_LENGTHS = {"classify": 256, "lm": 512, "translate": 128, "tag": 256, "embed": 256, "answer": 384, "choose": 256}
_BATCHES = {"classify": 32, "lm": 1, "translate": 16, "tag": 32, "embed": 32, "answer": 16, "choose": 8}
_OF_FILES: dict[str, Callable[..., Task]] = {"tag": tags_task, "answer": spans_task, "choose": choices_task}


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How much of a file is read: its first `samples` lines or windows, in batches, cut at `length` tokens."""

    samples: int | None = None
    batch: int | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        """Refuse to read nothing."""
        for name in ("samples", "batch", "length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, eq=False)
class TaskModel:
    """A model and every attention it has; unit: what goes together at once (auto, heads, kv_groups).

    trusted: whether code that the folder brings was let run. structure: what heads can be taken out of for good;
    a model of your own, described by its attentions alone, can be scored without.
    """

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    attentions: Sequence[Attention]
    task_name: TaskName
    unit: str = "auto"
    trusted: bool = False
    structure: Structure | None = None

    @property
    def about(self) -> dict[str, Any]:
        """The model's folder, and whether its code was let run: what every result begins with."""
        return {"model": str(self.folder), "trust_remote_code": self.trusted}

    @property
    def layouts(self) -> list[HeadLayout]:
        """Heads, how many share a KV head, and what goes at once, by attention."""
        return [
            HeadLayout(one.heads, max(one.heads // max(one.kv_heads, 1), 1), one.unit(self.unit))
            for one in self.attentions
        ]

    @property
    def keep(self) -> list[Tensor]:
        """A mask of every attention that keeps all its heads."""
        return [torch.ones(attention.heads, dtype=torch.bool) for attention in self.attentions]

    def of_kinds(self, kinds: Sequence[str]) -> list[bool]:
        """Which attentions are of these kinds; none named means all. Raises InputError on a kind the model lacks."""
        known = {attention.kind for attention in self.attentions}
        if set(kinds) - known:
            raise InputError(f"kind {sorted(set(kinds) - known)[0]!r} is not in this model: it has {sorted(known)}")
        return [not kinds or attention.kind in kinds for attention in self.attentions]

    def read(self, data: str | Task, options: DataOptions | None = None) -> Task:
        """The task on a file, or on a folder or .zip of pictures; a task of your own is itself.

        Raises a SecateurError on what cannot be used.
        """
        if isinstance(data, Task):
            return data
        options = options or DataOptions()
        if reads_pictures(self.model):
            source, size = Source(self.folder, self.trusted), options.batch or _BATCHES["classify"]
            return picture_task(data, self.model, source, limit=options.samples, batch=size)
        return self._read_texts(data, options)

    def _read_texts(self, data: str, options: DataOptions) -> Task:
        if self.model.main_input_name != "input_ids":
            raise InputError(
                f"{type(self.model).__name__} reads {self.model.main_input_name}, and files of that are not read here: "
                "from Python, give secateur.heads.prune.prune_heads a Task of your own batches (docs/heads.md)"
            )
        assert self.tokenizer is not None  # open_task_model has seen to it
        config = self.model.config
        batch = options.batch or _BATCHES[self.task_name]
        length = options.length or default_length(config, _LENGTHS[self.task_name])
        if self.task_name == "lm":
            return language_task(data, self.model, self.tokenizer, limit=options.samples, batch=batch, length=length)
        if self.task_name == "translate":
            check_length(length, config, f"sentence pairs {data!r}")  # a translation may become that long
            pairs = read_pairs(Path(data), options.samples)
            task = translation_task(pairs, self.tokenizer, batch=batch, length=length)
            for part in task.batches:
                for ids in (part["input_ids"], part["labels"].clamp_min(0)):  # -100 fills up
                    check_ids(ids, config, f"sentence pairs {data!r}")
            return task
        if made := _OF_FILES.get(self.task_name):
            return made(Path(data), self.model, self.tokenizer, limit=options.samples, batch=batch, length=length)
        examples = read_examples(Path(data), options.samples)
        return self._of_texts()(examples, self.model, self.tokenizer, batch=batch, length=length)

    def _of_texts(self) -> Callable[..., Task]:
        """What makes a task of texts, by what the model answers."""
        config = self.model.config
        if self.task_name == "embed":
            return partial(embedding_task, first=_first_token(self.folder))
        kind = getattr(config, "problem_type", None)
        if kind == "multi_label_classification":
            return labels_task
        return regression_task if kind == "regression" or config.num_labels == 1 else classification_task

    def read_both(
        self, data: tuple[str | Task, str | Task | None], options: DataOptions | None = None
    ) -> tuple[Task, Task]:
        """What heads are scored on, and what the model is judged on: the same where no second file is given.

        `samples` cuts the first file alone; the second is read whole.
        """
        options = options or DataOptions()
        scored = self.read(data[0], options)
        return scored, scored if data[1] is None else self.read(data[1], replace(options, samples=None))


def open_task_model(model: str | Path | Source, task: str | None = None, *, unit: str = "auto") -> TaskModel:
    """Load a model by the class it was saved as; the task is that class's unless named.

    Raises ModelError for a family without a row in the tables, InputError on a task it has no head for.
    """
    source = resolve(model)
    structure = open_whole(source, torch.float32, as_saved=True)
    loaded = structure.model
    own = _task_of(type(loaded).__name__)
    if own == "embed" and reads_pictures(loaded):
        own = None
    if task is not None and task not in get_args(TaskName):
        raise InputError(f"task {task!r} is unknown: use {', '.join(get_args(TaskName))}")
    if own is None or (task is not None and task != own):
        raise InputError(
            f"{type(loaded).__name__} has no head for task {task or ', '.join(get_args(TaskName))}: fine-tune it first "
            "(secateur heads finetune), or name a model that was"
        )
    tokenizer = load_tokenizer(source)
    if tokenizer is None and loaded.main_input_name == "input_ids":
        raise InputError(f"{source} has no tokenizer, and texts cannot be read without one")
    if not structure.attentions:
        raise ModelError(
            f"the heads of {type(loaded).__name__} are not known: docs/heads.md lists the families, and "
            "docs/adapt.md says how to add one"
        )
    for attention in structure.attentions:
        attention.unit(unit)  # refuse before any work
    return TaskModel(source.folder, loaded, tokenizer, structure.attentions, own, unit, source.trusted, structure)


def _task_of(name: str) -> TaskName | None:
    if name.endswith(("ForSequenceClassification", "ForImageClassification")):
        return "classify"
    if name.endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM")):
        return "lm"
    if name.endswith("ForTokenClassification"):
        return "tag"
    if name.endswith("ForQuestionAnswering"):
        return "answer"
    if name.endswith("ForMultipleChoice"):
        return "choose"
    if name.endswith(("ForConditionalGeneration", "MTModel", "ForCTC")):
        return "translate"
    return "embed" if name.endswith("Model") and "For" not in name else None


def _first_token(folder: Path) -> bool:
    """Whether a folder of sentence-transformers takes the first token for the text, and not the mean."""
    path = folder / "1_Pooling" / "config.json"
    return path.is_file() and bool(read_document(path).get("pooling_mode_cls_token"))
