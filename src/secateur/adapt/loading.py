"""What every load shares: transformers kept quiet, its report read, its errors as one line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

from secateur.core.errors import ModelError

__all__ = ["HEADLESS", "check_report", "first_line", "quiet"]

HEADLESS = (
    "it has no language-model head (lm_head), which text can be scored with; prune it by a method that needs none: "
    "magnitude, wanda, ria, sparsegpt, slimgpt, flap or shortgpt"
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and warnings away while it loads."""
    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()


def check_report(report: Mapping[str, Any], source: object) -> None:
    """Refuse a model some of whose tensors were not in its checkpoint: they would be drawn at random.

    Raises ModelError naming the first one; where that is the head, which methods need none.
    """
    missing = sorted(report["missing_keys"])
    if missing and all(name.startswith(("lm_head.", "embed_out.")) for name in missing):
        raise ModelError(f"{source} holds no {missing[0]!r}: {HEADLESS}")
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{source} holds no tensor {missing[0]!r}{more}: the checkpoint does not fit its config")


def first_line(error: Exception) -> str:
    """What an error says first, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
