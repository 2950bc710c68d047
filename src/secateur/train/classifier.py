"""Fine-tune an encoder into a classifier, by transformers' own Trainer."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers import TrainingArguments as Arguments
from transformers.trainer_callback import PrinterCallback

from secateur.adapt.positions import check_ids, default_length
from secateur.core.errors import InputError

__all__ = ["LENGTH", "Finetuning", "finetune_"]

LENGTH = 128  # tokens a text is cut at, unless told


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
    texts: Sequence[str],
    labels: Sequence[int],
    plan: Finetuning,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Train every weight but the embeddings on texts and their classes; returns the mean loss of the last tenth."""
    length = default_length(model.config, LENGTH) if plan.length is None else plan.length
    rows = tokenizer(list(texts), truncation=True, max_length=length)
    for row in rows["input_ids"]:
        check_ids(torch.tensor([row]), model.config, "texts to fine-tune on")
    names = [name for name in rows if name != "token_type_ids"]
    examples = [{name: rows[name][row] for name in names} | {"labels": labels[row]} for row in range(len(labels))]
    model.requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)
    losses: list[float] = []
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        trainer = Trainer(
            model=model,
            args=_arguments(plan, folder),
            train_dataset=_Rows(examples),
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[_Watch(losses, progress)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval().requires_grad_(False)
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def _arguments(plan: Finetuning, folder: str) -> Arguments:
    return Arguments(
        output_dir=folder,
        num_train_epochs=plan.epochs,
        per_device_train_batch_size=plan.batch,
        learning_rate=plan.rate,
        warmup_steps=0.1,
        weight_decay=0.01,
        seed=plan.seed,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class _Watch(TrainerCallback):
    """Keeps every step's loss and tells how far training is."""

    def __init__(self, losses: list[float], progress: Callable[[int, int], None] | None) -> None:
        self.losses = losses
        self.progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            if self.progress is not None:
                self.progress(state.global_step, state.max_steps)
