"""Train what pruning left, on text, with or without the dense model as a teacher."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from secateur.adapt.structure import Structure
from secateur.core.errors import InputError, NumericalError
from secateur.core.shapes import TokenIds
from secateur.train.parametrizations import Kept, LoRA

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

    def rate_at(self, step: int) -> float:
        """The learning rate of a step: up over the first tenth, then down as a cosine."""
        warm = max(1, self.steps // 10)
        if step < warm:
            return self.peak * (step + 1) / warm
        return self.peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


class Trainer:
    """A model whose blocks' layers train; norms, embeddings and the head stay."""

    def __init__(self, structure: Structure, training: Training, teacher: PreTrainedModel | None = None) -> None:
        """Freeze everything else. Raises InputError when the teacher has another vocabulary."""
        model = structure.model
        if teacher is not None and teacher.config.vocab_size != model.config.vocab_size:
            raise InputError(
                f"the teacher has {teacher.config.vocab_size} tokens, the model {model.config.vocab_size}: "
                "use the dense model it was pruned from"
            )
        self.model, self.training, self.teacher = model, training, teacher
        self.layers = structure.layers
        self.parameters: list[nn.Parameter] = []
        for layer in self.layers:
            weight = layer.module.get_parameter("weight")
            change = LoRA(weight, training.rank, layer.name) if training.rank else Kept(weight)
            parametrize.register_parametrization(layer.module, "weight", change)  # keeps the weight's own Parameter
            self.parameters += list(change.parameters()) or [weight]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.0)

    def step(self, number: int, ids: TokenIds) -> float:
        """One step on `[batch, length]`; returns the loss. Raises NumericalError when it is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.rate_at(number)
        loss = self._loss(ids)
        if not torch.isfinite(loss):
            raise NumericalError(f"the loss is {loss.item()} at step {number}: use a smaller rate")
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def _loss(self, ids: TokenIds) -> Tensor:
        logits = self.model(ids, use_cache=False).logits[:, :-1].float()
        loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        if self.teacher is None or self.training.teaching == 0:
            return loss
        with torch.no_grad():
            taught = self.teacher(ids, use_cache=False).logits[:, :-1].float()
        guided = kl_div(
            log_softmax(logits, dim=-1).flatten(0, 1),
            log_softmax(taught, dim=-1).flatten(0, 1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.training.teaching) * loss + self.training.teaching * guided

    def state(self) -> dict[str, Tensor]:
        """Everything a later run needs to go on with the same bits."""
        tensors = {f"{index}:value": parameter.detach() for index, parameter in enumerate(self.parameters)}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"{index}:{key}": value for key, value in entry.items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        entries: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, _, key = name.partition(":")
            if key == "value":
                self.parameters[int(index)].data.copy_(tensor)
            else:
                entries.setdefault(int(index), {})[key] = tensor.clone()
        document = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**document, "state": entries})

    def settle(self) -> dict[str, Tensor]:
        """Merge every change into its weight; return the stored weights by layer name."""
        for layer in self.layers:
            parametrize.remove_parametrizations(layer.module, "weight", leave_parametrized=True)
        return {layer.name: layer.module.get_parameter("weight").detach() for layer in self.layers}
