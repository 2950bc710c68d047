"""Zero-shot multiple choice and last-word prediction, scored as lm-eval does."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.adapt.positions import check_ids, max_length
from secateur.calibrate.rows import Row, read_rows
from secateur.core.errors import InputError, NumericalError
from secateur.core.shapes import TokenIds
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
    highest per character of its continuation, the space before it not counted (lm-eval's definitions; where
    contexts are chosen from, both are the same). Rows with one continuation
    and no choices count as right when every token of it is the model's first choice.
    """

    path: Path
    limit: int | None = None

    def measure(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, float]:
        """`acc`, `acc_norm`, their standard errors and the number of questions `n`; progress counts questions."""
        questions = read_questions(self.path, self.limit)
        right, right_norm = 0, 0
        for done, question in enumerate(questions):
            progress(done, len(questions))
            if question.gold is None:
                hit = _greedy(model, tokenizer, question.candidates[0])
                right, right_norm = right + hit, right_norm + hit
                continue
            sums = log_likelihoods(model, tokenizer, question.candidates)
            texts = [continuation.strip() for _, continuation in question.candidates]
            shares = [value / max(len(text), 1) for value, text in zip(sums, texts, strict=True)]
            right += sums.index(max(sums)) == question.gold
            right_norm += shares.index(max(shares)) == question.gold
        n = len(questions)
        acc, norm = right / n, right_norm / n
        spread = math.sqrt(max(n - 1, 1))  # lm-eval's: the sample's standard deviation over sqrt(n)
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
            query = _ask(_text(row["query"]))
            pairs = tuple((query, " " + choice.strip()) for choice in _texts(row["choices"]))
            question = Question(pairs, _gold(row["gold"]))
        elif "context_options" in row:
            ending = " " + _text(row["continuation"]).strip()
            question = Question(
                tuple((context, ending) for context in _texts(row["context_options"])), _gold(row["gold"])
            )
        else:
            question = Question(((_text(row["context"]), " " + _text(row["continuation"]).strip()),), None)
        if question.gold is not None and not 0 <= question.gold < len(question.candidates):
            raise ValueError(f"gold {question.gold} of {len(question.candidates)} candidates")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{given.where} should have query+choices+gold, context_options+continuation+gold, or "
            f"context+continuation ({type(error).__name__}: {error})"
        ) from error
    return question


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} should be text")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} should be a list of texts")
    return [_text(text) for text in value]


def _gold(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"gold {value!r} should be a whole number")
    return int(value)


def _ask(query: str) -> str:
    """Questions end with lm-eval's "Answer:", so that a choice reads as the answer."""
    asked = query.lstrip().startswith(("Question:", "Passage:")) and not query.rstrip().endswith("Answer:")
    return query.rstrip() + "\nAnswer:" if asked else query.rstrip()


def _encode(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pair: tuple[str, str]) -> tuple[TokenIds, int]:
    """Ids `[1, length]` of context and continuation, and how many are the continuation's; as lm-eval makes them.

    Spaces at the end of a context belong to the continuation. An empty context is BOS, or EOS where there is none.
    A context that is too long loses its beginning; the last token is predicted and never read. Raises InputError
    where nothing can stand for an empty context, or the continuation alone is too long.
    """
    context, continuation = pair[0].rstrip(), pair[0][len(pair[0].rstrip()) :] + pair[1]
    if context:
        before = _ids(tokenizer, context)
        # Read as one text, since a tokenizer may join letters across the border.
        after = _ids(tokenizer, context + continuation)[len(before) :]
    else:
        prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if prefix is None:
            raise InputError(
                "an empty context needs a tokenizer with a BOS or EOS token: give every question a context"
            )
        after = tokenizer(continuation, add_special_tokens=False).input_ids
        before = [] if after[:1] == [prefix] else [prefix]
    whole = [*before, *after]
    count = max(len(after) - (not before), 1)
    limit = _limit(model, tokenizer)
    if count > limit or len(whole) < 2:
        raise InputError(f"continuation {continuation[:60]!r} has {count} tokens; a model of {limit} cannot score it")
    ids = torch.tensor([whole[-limit - 1 :]])  # the last token is only predicted
    check_ids(ids[:, :-1], model.config, "tasks")
    check_ids(ids[:, -1:], model.config, "tasks")
    return ids, count


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text that is written with its BOS does not get another."""
    written = bool(tokenizer.bos_token) and text.startswith(str(tokenizer.bos_token))
    return list(tokenizer(text, add_special_tokens=False).input_ids if written else tokenizer(text).input_ids)


def _limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens read at once: what the config says, else the tokenizer, else 2048."""
    told = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    return min(int(told) if told < 10**9 else 2048, max_length(model.config) or 10**9)


def log_likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> list[float]:
    """Summed log-likelihood of every continuation after its context, all in one batch.

    Shorter rows are filled up on the right, where a causal model cannot see.
    """
    rows = [_encode(model, tokenizer, pair) for pair in pairs]
    width = max(ids.shape[1] for ids, _ in rows)  # [candidates, width]
    batch = torch.cat([torch.nn.functional.pad(ids, (0, width - ids.shape[1])) for ids, _ in rows])
    losses = token_losses(model, batch.to(model.device))
    ends = [(ids.shape[1] - 1, count) for ids, count in rows]
    likelihoods = [-float(losses[row, end - count : end].sum()) for row, (end, count) in enumerate(ends)]
    if any(math.isnan(value) for value in likelihoods):
        raise NumericalError("the model's likelihoods are NaN: check its weights, or try --dtype float32")
    return likelihoods


@torch.no_grad()
def _greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pair: tuple[str, str]) -> bool:
    ids, count = _encode(model, tokenizer, pair)
    ids = ids.to(model.device)
    logits = model(ids[:, :-1], use_cache=False, logits_to_keep=count).logits[0]
    return bool((logits.argmax(dim=-1) == ids[0, -count:]).all())
