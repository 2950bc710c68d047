"""Fine-tune an encoder into a classifier, with the bits that transformers' own Trainer gives."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from secateur.adapt.positions import check_ids, default_length
from secateur.core.errors import InputError
from secateur.train.epochs import Epochs
from secateur.train.loop import Descent, Linear, Loop, Stateful, Store, Stream
from secateur.train.objective import OwnLoss

__all__ = ["LENGTH", "Finetuning", "finetune_"]

LENGTH = 128  # tokens a text is cut at, unless told
_EVERY = 50  # steps between saved states
_DECAY = 0.01
_UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")  # as transformers names them


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """Epochs over the examples; a linear rate that rises over the first tenth of the steps.

    length: tokens a text is cut at; None is 128, or as many as the model has positions.
    """

    epochs: float = 3.0
    batch: int = 32
    rate: float = 5e-5
    length: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse training that does nothing."""
        amounts = all(0 < amount < float("inf") for amount in (self.epochs, self.rate))
        if not amounts or self.batch < 1 or (self.length is not None and self.length < 2):
            raise InputError(
                f"fine-tuning needs epochs and rate above 0, batch >= 1 and length >= 2, got {self.epochs}, "
                f"{self.rate}, {self.batch}, {self.length}"
            )


def finetune_(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[tuple[str, int]],
    plan: Finetuning,
    *,
    store: Store,
    progress: Callable[[int, int], None] = lambda done, steps: None,
) -> float:
    """Train every weight but the embeddings on texts and their classes; returns the mean loss of the last tenth.

    A store that holds a state is resumed from. Raises InputError on ids outside the vocabulary, NumericalError
    when the loss is not finite.
    """
    length = default_length(model.config, LENGTH) if plan.length is None else plan.length
    rows = tokenizer([text for text, _ in examples], truncation=True, max_length=length)
    for row in rows["input_ids"]:
        check_ids(torch.tensor([row]), model.config, "texts to fine-tune on")
    pad = DataCollatorWithPadding(tokenizer)
    names = [name for name in rows if name != "token_type_ids"]

    def collate(chosen: list[int]) -> dict[str, torch.Tensor]:
        batch = pad([{name: rows[name][row] for name in names} | {"labels": examples[row][1]} for row in chosen])
        return {name: value.to(model.device) for name, value in batch.items()}

    # Dropout takes no generator: it draws from the global stream, which is seeded in here and left as it was outside.
    with torch.random.fork_rng(devices=[]):
        stream = torch.default_generator.manual_seed(plan.seed)
        lengths = [len(row) for row in rows["input_ids"]]
        batches = Epochs(lengths, collate, batch=plan.batch, epochs=plan.epochs, stream=stream)
        loop = _loop(model.train(), plan, batches)
        loop.run(batches, store=store, every=_EVERY, progress=progress)
    model.eval().requires_grad_(False)
    tail = loop.losses[-max(1, len(loop.losses) // 10) :]
    return sum(tail) / len(tail)


def _loop(model: PreTrainedModel, plan: Finetuning, batches: Epochs) -> Loop:
    model.requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    norms = {id(weight) for part in model.modules() if isinstance(part, nn.LayerNorm) for weight in part.parameters()}
    still = [name for name, weight in trained.items() if id(weight) in norms or _UNDECAYED.search(name.lower())]
    groups = [
        {"params": [weight for name, weight in trained.items() if name not in still], "weight_decay": _DECAY},
        {"params": [trained[name] for name in still], "weight_decay": 0.0},
    ]
    descent = Descent(torch.optim.AdamW(groups, lr=plan.rate, fused=True), Linear(len(batches)))
    others: dict[str, Stateful] = {"data": batches, "random": Stream(batches.stream)}
    return Loop(list(trained.values()), OwnLoss(model), [descent], others=others)
