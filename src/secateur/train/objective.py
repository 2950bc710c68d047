"""Objectives: the next token or the class of a picture, what a teacher says of it; the loss a model computes itself."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import PreTrainedModel

from secateur.core.errors import InputError
from secateur.core.shapes import TokenIds

__all__ = ["Classes", "NextToken", "OwnLoss"]


class NextToken:
    """Cross-entropy of every next token, mixed with the divergence from a teacher's distribution.

    Formula: L = (1 - t) CE(p, x) + t KL(q || p), q the teacher's [Hinton et al. 2015]
    """

    def __init__(self, model: PreTrainedModel, teacher: PreTrainedModel | None = None, teaching: float = 0.5) -> None:
        """teaching: the teacher's share of the loss. Raises InputError when the teacher has another vocabulary."""
        if teacher is not None and teacher.config.vocab_size != model.config.vocab_size:
            raise InputError(
                f"the teacher has {teacher.config.vocab_size} tokens, the model {model.config.vocab_size}: "
                "use the dense model it was pruned from"
            )
        self.model, self.teacher, self.teaching = model, teacher, teaching

    def __call__(self, ids: TokenIds, step: int = 0) -> Tensor:
        """The loss of `[batch, length]` ids, nats a token."""
        logits = self.model(ids, use_cache=False).logits[:, :-1].float()  # [batch, length - 1, vocab]
        loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())  # position t guesses token t + 1
        if self.teacher is None or self.teaching == 0:
            return loss
        with torch.no_grad():
            taught = self.teacher(ids, use_cache=False).logits[:, :-1].float()
        guided = kl_div(
            log_softmax(logits, dim=-1).flatten(0, 1),
            log_softmax(taught, dim=-1).flatten(0, 1),
            reduction="batchmean",  # the mean over tokens; "mean" would divide by the vocabulary too
            log_target=True,
        )
        return (1 - self.teaching) * loss + self.teaching * guided


class Classes:
    """Cross-entropy of pictures' classes, mixed with the divergence from a teacher's distribution.

    Formula: L = (1 - t) CE(p, y) + t KL(q || p), q the teacher's [Hinton et al. 2015]
    """

    def __init__(self, model: nn.Module, teacher: nn.Module | None = None, teaching: float = 0.5) -> None:
        """teaching: the teacher's share of the loss."""
        self.model, self.teacher, self.teaching = model, teacher, teaching

    def __call__(self, batch: Any, step: int) -> Tensor:
        """The loss of `(pixels, classes)`, nats a picture."""
        pixels, classes = batch
        logits = self.model.train()(pixels)
        loss = cross_entropy(logits, classes)
        if self.teacher is None or self.teaching == 0:
            return loss
        with torch.no_grad():
            taught = log_softmax(self.teacher.eval()(pixels), dim=-1)
        guided = kl_div(log_softmax(logits, dim=-1), taught, reduction="batchmean", log_target=True)
        return (1 - self.teaching) * loss + self.teaching * guided

    def state(self) -> dict[str, Tensor]:
        """The network's buffers: statistics of batch norms change as it trains."""
        return {name: value.clone() for name, value in self.model.named_buffers()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        for name, value in self.model.named_buffers():
            value.copy_(tensors[name])


class OwnLoss:
    """The loss that a model computes of its labels: cross-entropy of the classes for a classifier.

    Formula: L = -1/n sum_i ln p(y_i | x_i) [cross-entropy]
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """The model is called with a batch's tensors by name, `labels` among them."""
        self.model = model

    def __call__(self, batch: Mapping[str, Tensor], step: int = 0) -> Tensor:
        """The mean over the batch's examples."""
        loss: Tensor = self.model(**batch).loss
        return loss
