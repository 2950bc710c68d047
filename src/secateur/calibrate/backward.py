"""Statistics of backward passes: each kind says how it watches a model, and one function gathers them all."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import PreTrainedModel

from secateur.adapt.layer import Layer
from secateur.adapt.structure import Structure
from secateur.core.errors import ModelError, first_line
from secateur.core.protocols import Statistic
from secateur.core.shapes import Activations, Samples
from secateur.storage.source import is_language_model

__all__ = ["BackwardSum", "gather_backward", "sample_loss", "split_needs", "stored", "unstored"]

B = TypeVar("B", bound="BackwardSum")
Read = Callable[[], Mapping[str, Tensor]]


class BackwardSum(Statistic):
    """What backward passes of a loss gave, summed over samples; no forward pass adds to it."""

    reduction: ClassVar[Literal["mean", "sum"]] = "mean"  # of the loss over a sample's tokens, or its one answer

    def __init__(self, total: Tensor | None = None, samples: int = 0) -> None:
        """Take the sum over that many samples."""
        self.total = total
        self.samples = samples

    def update(self, x: Activations) -> None:
        """Inputs say nothing of gradients: those come from a backward pass of the whole model."""

    def merge(self: B, other: B) -> B:
        """The sum over both sets of samples."""
        if self.total is None or other.total is None:
            return self if other.total is None else other
        return type(self)(self.total + other.total, self.samples + other.samples)

    @staticmethod
    @abstractmethod
    def watch(structure: Structure, layers: Sequence[Layer]) -> AbstractContextManager[Read]:
        """Watch these layers in backward passes; the context reads what was summed, by layer name."""

    @staticmethod
    def counted(ids: Samples) -> int:
        """What the sum over these samples is divided by for a mean."""
        return 1


def split_needs(
    needs: Sequence[type[Statistic]],
) -> tuple[list[type[Statistic]], list[type[BackwardSum]]]:
    """Statistics that a forward pass gathers, and those that need a backward pass."""
    return (
        [kind for kind in needs if not issubclass(kind, BackwardSum)],
        [kind for kind in needs if issubclass(kind, BackwardSum)],
    )


def gather_backward(
    structure: Structure,
    ids: Samples,
    kinds: Sequence[type[BackwardSum]],
    names: Collection[str] | None = None,
) -> dict[str, dict[type[BackwardSum], BackwardSum]]:
    """Statistics of these kinds by layer name; ids `[samples, length]`, or pixels, one sample at a time.

    names: the layers wanted, None for all. The whole model is in memory, and so are the activations of one sample;
    each kind takes its own pass, as their losses differ.
    """
    layers = [layer for layer in structure.layers if names is None or layer.name in names]
    gathered: dict[str, dict[type[BackwardSum], BackwardSum]] = {layer.name: {} for layer in layers}
    structure.model.requires_grad_(False)
    for kind in kinds:
        with kind.watch(structure, layers) as read:
            for sample in ids.split(1):  # one at a time: activations of the whole model are held
                sample = sample.to(structure.model.device)
                sample_loss(structure.model, sample, kind.reduction).backward()
            for name, total in read().items():
                gathered[name][kind] = kind(total, kind.counted(ids))
    return gathered


def sample_loss(model: PreTrainedModel, sample: Samples, reduction: str) -> Tensor:
    """The loss of one sample: of every next token in a language model, else of the model's own likeliest answers.

    A classifier needs no classes so; of several labels each has an answer of its own. Raises ModelError for a model
    whose answers are not classes of two or more.
    """
    if is_language_model(model):
        logits = model(sample, use_cache=False).logits[0, :-1].float()  # [length - 1, vocab]
        return cross_entropy(logits, sample[0, 1:], reduction=reduction)
    answers, kind = _answers(model, sample), getattr(model.config, "problem_type", None)
    if answers is not None and kind == "multi_label_classification":
        said = (answers > 0).to(answers)
        return binary_cross_entropy_with_logits(answers, said, reduction=reduction)
    if answers is None or answers.shape[-1] < 2 or kind == "regression":
        raise ModelError(
            f"{type(model).__name__} puts out no classes, so its loss has no gradient: use a method or allocator that "
            "takes none, such as wanda or sparsegpt"
        )
    logits = answers.flatten(0, -2)  # [answers, classes]
    return cross_entropy(logits, logits.argmax(dim=-1), reduction=reduction)


def _answers(model: PreTrainedModel, sample: Samples) -> Tensor | None:
    """A model's logits of a sample, over classes or words in the last dimension; None where it has no such."""
    try:
        answers = getattr(model(sample), "logits", None)
    except Exception as error:  # a class of any kind may ask for more than one input
        name = type(model).__name__
        raise ModelError(f"{name} cannot be asked for its answers: {first_line(error)[:200]}") from error
    words = getattr(model.config.get_text_config(), "vocab_size", None)
    if (
        not isinstance(answers, Tensor)
        or answers.dim() < 2
        or answers.shape[-1] not in (model.config.num_labels, words)
    ):
        return None
    return answers.float()


def stored(parts: Mapping[type[BackwardSum], BackwardSum]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """A layer's statistics as sums and counts by kind, for a file."""
    sums = {kind.__name__: part.total.cpu() for kind, part in parts.items() if part.total is not None}
    return sums, {kind.__name__: part.samples for kind, part in parts.items()}


def unstored(
    kinds: Sequence[type[BackwardSum]], sums: Mapping[str, Tensor], counts: Mapping[str, int], device: torch.device
) -> dict[type[Statistic], Statistic]:
    """A layer's statistics of these kinds from what `stored` gave, on a device."""
    return {kind: kind(sums[kind.__name__].to(device), counts[kind.__name__]) for kind in kinds}
