"""Zero-shot multiple choice and last-word prediction, scored as lm-eval does."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.calibrate.rows import Row, read_rows
from secateur.core.errors import InputError
from secateur.evaluate.perplexity import token_losses

__all__ = ["Question", "ZeroShot", "log_likelihoods", "read_questions"]


class Question(NamedTuple):
    """Candidates as (context, continuation), and the right one; None scores greedy decoding."""

    candidates: tuple[tuple[str, str], ...]
    gold: int | None


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Accuracy on a .jsonl file of questions; `limit` takes its first rows.

    acc picks the candidate with the highest summed log-likelihood, acc_norm the one
    highest per byte of its text (lm-eval's definitions). Rows with one continuation
    and no choices count as right when every token of it is the model's first choice.
    """

    path: Path
    limit: int | None = None

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
        """`acc`, `acc_norm`, their standard errors and the number of questions `n`."""
        questions = read_questions(self.path, self.limit)
        right, right_norm = 0, 0
        for question in questions:
            if question.gold is None:
                hit = _greedy(model, tokenizer, question.candidates[0])
                right, right_norm = right + hit, right_norm + hit
                continue
            sums = log_likelihoods(model, tokenizer, question.candidates)
            per_byte = [
                value / max(len(text.encode()), 1) for value, (_, text) in zip(sums, question.candidates, strict=True)
            ]
            right += sums.index(max(sums)) == question.gold
            right_norm += per_byte.index(max(per_byte)) == question.gold
        n = len(questions)
        acc, norm = right / n, right_norm / n
        spread = math.sqrt(max(n - 1, 1))
        return {
            "acc": acc,
            "acc_stderr": math.sqrt(acc * (1 - acc)) / spread,
            "acc_norm": norm,
            "acc_norm_stderr": math.sqrt(norm * (1 - norm)) / spread,
            "n": n,
        }


def read_questions(path: Path, limit: int | None) -> list[Question]:
    """Questions of a .jsonl file. Raises InputError naming the line that does not fit."""
    if limit is not None and limit < 1:
        raise InputError(f"tasks {str(path)!r}: no rows to score (limit {limit})")
    return [_question(row) for row in read_rows(path)[:limit]]


def _question(given: Row) -> Question:
    try:
        row: Mapping[str, Any] = given.fields
        if "choices" in row:
            query = _ask(row["query"])
            found = Question(tuple((query, " " + choice.strip()) for choice in row["choices"]), int(row["gold"]))
        elif "context_options" in row:
            ending = " " + row["continuation"].strip()
            found = Question(tuple((context, ending) for context in row["context_options"]), int(row["gold"]))
        else:
            found = Question(((row["context"], " " + row["continuation"].strip()),), None)
        if found.gold is not None and not 0 <= found.gold < len(found.candidates):
            raise ValueError(f"gold {found.gold} of {len(found.candidates)} candidates")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{given.where} should have query+choices+gold, context_options+continuation+gold, or "
            f"context+continuation ({type(error).__name__}: {error})"
        ) from error
    return found


def _ask(query: str) -> str:
    """Questions end with lm-eval's "Answer:", so that a choice reads as the answer."""
    asked = query.lstrip().startswith(("Question:", "Passage:")) and not query.rstrip().endswith("Answer:")
    return query.rstrip() + "\nAnswer:" if asked else query.rstrip()


def _encode(tokenizer: PreTrainedTokenizerBase, pair: tuple[str, str]) -> tuple[Tensor, int]:
    """Ids of context and continuation together, and how many belong to the continuation."""
    whole: Sequence[int] = tokenizer(pair[0] + pair[1]).input_ids
    context: Sequence[int] = tokenizer(pair[0]).input_ids
    count = max(len(whole) - len(context), 1)
    limit = min(int(tokenizer.model_max_length), 1 << 14)
    return torch.tensor([list(whole[-limit:])]), count


def log_likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> list[float]:
    """Summed log-likelihood of every continuation after its context, all in one batch.

    Shorter rows are filled up on the right, where a causal model cannot see.
    """
    rows = [_encode(tokenizer, pair) for pair in pairs]
    width = max(ids.shape[1] for ids, _ in rows)
    batch = torch.cat([torch.nn.functional.pad(ids, (0, width - ids.shape[1])) for ids, _ in rows])
    losses = token_losses(model, batch.to(model.device))
    ends = [(ids.shape[1] - 1, count) for ids, count in rows]
    return [-float(losses[row, end - count : end].sum()) for row, (end, count) in enumerate(ends)]


@torch.no_grad()
def _greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pair: tuple[str, str]) -> bool:
    ids, count = _encode(tokenizer, pair)
    ids = ids.to(model.device)
    logits = model(ids, use_cache=False, logits_to_keep=count + 1).logits[0, :-1]
    return bool((logits.argmax(dim=-1) == ids[0, -count:]).all())
