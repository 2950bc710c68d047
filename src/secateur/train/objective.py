"""Objectives: the next token or the class of a picture, what a teacher says of it; the loss a model computes itself."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, nll_loss
from transformers import PreTrainedModel

from secateur.core.errors import InputError
from secateur.core.shapes import TokenIds

__all__ = ["Classes", "NextToken", "OwnLoss", "mixed_loss", "next_token_logits"]


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
        taught = None
        if self.teacher is not None and self.teaching:
            with torch.no_grad():
                taught = next_token_logits(self.teacher, ids)
        return mixed_loss(next_token_logits(self.model, ids), ids[:, 1:].flatten(), taught, self.teaching)


def next_token_logits(model: PreTrainedModel, ids: TokenIds) -> Tensor:
    """`[batch * (length - 1), vocab]` in float32: what a model says of every token but the first."""
    logits: Tensor = model(ids, use_cache=False).logits[:, :-1]  # position t guesses token t + 1
    return logits.flatten(0, 1).float()


def mixed_loss(logits: Tensor, classes: Tensor, taught: Tensor | None, teaching: float) -> Tensor:
    """Mean over rows of `[rows, classes]` logits; one log-softmax serves both parts.

    Formula: L = (1 - t) CE(p, x) + t KL(q || p), q a teacher's distribution [Hinton et al. 2015]
    """
    spoken = log_softmax(logits, dim=-1)
    loss = nll_loss(spoken, classes)
    if taught is None or teaching == 0:
        return loss
    # "batchmean" is the mean over rows; "mean" would divide by the classes too
    guided = kl_div(spoken, log_softmax(taught, dim=-1), reduction="batchmean", log_target=True)
    return (1 - teaching) * loss + teaching * guided


class Classes:
    """Cross-entropy of pictures' classes, mixed with the divergence from a teacher's distribution.

    Formula: L = (1 - t) CE(p, y) + t KL(q || p), q the teacher's [Hinton et al. 2015]
    """

    def __init__(
        self, model: nn.Module, teacher: nn.Module | None = None, teaching: float = 0.5, *, norms: bool = True
    ) -> None:
        """teaching: the teacher's share of the loss. norms: batch norms follow the pictures, or stay as they are."""
        self.model, self.teacher, self.teaching, self.norms = model, teacher, teaching, norms

    def __call__(self, batch: Any, step: int) -> Tensor:
        """The loss of `(pixels, classes)`, nats a picture."""
        pixels, classes = batch
        taught = None
        self.model.train()
        for module in () if self.norms else self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # its scale and shift are trained all the same
        logits = self.model(pixels)
        if self.teacher is not None and self.teaching:
            with torch.no_grad():
                taught = self.teacher.eval()(pixels)
        return mixed_loss(logits, classes, taught, self.teaching)

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
