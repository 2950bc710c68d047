"""BLEU of a translation model on sentence pairs; sums of n-gram counts, so that samples can be drawn again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from secateur.calibrate.rows import read_lines
from secateur.core.errors import InputError
from secateur.score.gates import Batch
from secateur.tasks.task import pad_batches

__all__ = ["Translation", "read_pairs", "translation_task"]


@dataclass(frozen=True, eq=False)
class Translation:
    """Corpus BLEU of greedy translations. references stand in the order of the batches' samples."""

    batches: Sequence[Batch]
    references: Sequence[str]
    decode: Callable[[Tensor], list[str]]
    new: int = 128
    metric: str = "bleu"
    higher: bool = True

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of the reference, summed over its tokens."""
        logits = model(**batch).logits
        # [batch, vocab, seq]
        return nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"], ignore_index=-100, reduction="sum")

    @torch.no_grad()
    def translate(self, model: Any) -> list[str]:
        """Greedy translations in the order of the references."""
        texts: list[str] = []
        for batch in self.batches:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            texts += self.decode(model.generate(**inputs, max_new_tokens=self.new, num_beams=1, do_sample=False))
        return texts

    def parts(self, model: nn.Module) -> Float[np.ndarray, "samples 10"]:
        """Lengths of translation and reference, matching and all n-grams of 1 to 4."""
        bleu = _sacrebleu().BLEU(effective_order=True)
        rows = []
        for text, reference in zip(self.translate(model), self.references, strict=True):
            sentence = bleu.sentence_score(text, [reference])
            # Corpus BLEU is a function of these ten sums, so the bootstrap need not translate again.
            rows.append([sentence.sys_len, sentence.ref_len, *sentence.counts, *sentence.totals])
        return np.array(rows, dtype=float)

    def value(self, total: Float[np.ndarray, "*runs 10"]) -> Float[np.ndarray, "*runs"]:
        """Corpus BLEU."""
        return np.asarray(np.apply_along_axis(_bleu, -1, total))


def _bleu(total: Float[np.ndarray, " parts"]) -> float:
    lengths, counts, totals = total[:2].tolist(), total[2:6].tolist(), total[6:].tolist()
    compute = _sacrebleu().BLEU.compute_bleu
    return compute(correct=counts, total=totals, sys_len=int(lengths[0]), ref_len=int(lengths[1])).score


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise InputError("BLEU needs sacrebleu: pip install 'secateur[translate]'") from error
    return metrics


def translation_task(
    pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, *, batch: int = 16, length: int = 128
) -> Translation:
    """Batches of like source length; both sides are cut at `length` tokens."""
    sources = tokenizer([source for source, _ in pairs], truncation=True, max_length=length).input_ids
    targets = tokenizer(text_target=[target for _, target in pairs], truncation=True, max_length=length).input_ids
    batches: list[dict[str, Tensor]] = []
    order: list[int] = []
    for chosen, ids, mask in pad_batches(sources, batch, tokenizer.pad_token_id or 0):
        # -100 is what cross_entropy ignores.
        labels = nn.utils.rnn.pad_sequence([torch.tensor(targets[row]) for row in chosen], True, -100)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
        order += chosen

    def decode(ids: Tensor) -> list[str]:
        return tokenizer.batch_decode(ids, skip_special_tokens=True)

    return Translation(batches, [pairs[row][1] for row in order], decode, length)


def read_pairs(path: Path, limit: int | None = None) -> list[tuple[str, str]]:
    """Lines of source TAB target. Raises InputError naming the line that is not."""
    pairs = []
    for where, line in read_lines(path)[:limit]:
        source, *rest = line.split("\t")
        if len(rest) != 1 or not source or not rest[0]:
            raise InputError(f"{where} should be source TAB target")
        pairs.append((source, rest[0]))
    if not pairs:
        raise InputError(f"sentence pairs {str(path)!r} are empty")
    return pairs
