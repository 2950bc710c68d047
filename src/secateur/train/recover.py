"""How a pruned model is trained: which layers, how they may change, on what loss."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from secateur.adapt.structure import Structure
from secateur.core.errors import InputError
from secateur.train.loop import Cosine, Descent, Loop
from secateur.train.objective import NextToken
from secateur.train.parametrizations import Changes

__all__ = ["Trainer", "Training"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to recover: steps of `batch` windows of `length` tokens (None: 512, or as many as the model has positions).

    rank: of the change to every layer of the blocks; 0 trains the layers in full.
    rate: peak of a cosine schedule with a tenth of warm-up; None takes 1e-3 for low
    ranks and 5e-5 in full. teaching: share of the loss that is the teacher's.
    """

    steps: int = 200
    batch: int = 4
    length: int | None = None
    rank: int = 0
    rate: float | None = None
    teaching: float = 0.5
    seed: int = 0
    text_column: str | None = None

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        if min(self.steps, self.batch) < 1 or (self.length or 2) < 2 or self.rank < 0 or self.length == 0:
            raise InputError("recover needs steps and batch of at least 1, length of at least 2, rank of at least 0")
        if not 0 < self.peak < float("inf") or not 0 <= self.teaching <= 1:
            raise InputError("recover needs a rate above 0 and teaching in 0..1")

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return (1e-3 if self.rank else 5e-5) if self.rate is None else self.rate


class Trainer:
    """A model whose blocks' layers train; norms, embeddings and the head stay."""

    def __init__(self, structure: Structure, training: Training, teacher: PreTrainedModel | None = None) -> None:
        """Freeze everything else. Raises InputError when the teacher has another vocabulary."""
        self.model, self.training = structure.model, training
        objective = NextToken(self.model, teacher, training.teaching)
        self.changes = Changes(structure.layers, training.rank)
        # a decay would shrink weights of a model that is trained for a few hundred steps only
        adam = torch.optim.AdamW(self.changes.parameters, lr=training.peak, weight_decay=0.0)
        self.loop = Loop(self.changes.parameters, objective, [Descent(adam, Cosine(training.steps))])
