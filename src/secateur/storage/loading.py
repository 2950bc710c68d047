"""What every load shares: transformers kept quiet, its report read, its errors as one line."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from secateur.core.errors import ModelError

__all__ = ["HEADLESS", "check_report", "check_sizes", "quiet"]

_COUNTS = {"num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"}
_MATRICES = (("vocab_size", "hidden_size"), ("intermediate_size", "hidden_size"), ("vocab_size", "d_model"))
_LARGEST = 1 << 27  # of a whole number in a config: more than any size of a model
_BLOCKS = 10_000  # where no checkpoint says how many there can be

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


def check_sizes(config: PretrainedConfig, folder: Path) -> None:
    """Refuse a config that asks for far more than its checkpoint holds, before a model of that size is built.

    Raises ModelError naming the field.
    """
    tensors, numbers = _stored(folder)
    settings = {key: value for key, value in vars(config).items() if isinstance(value, int)}
    settings |= {key: getattr(config, key) for key in ("hidden_size", "num_hidden_layers") if hasattr(config, key)}
    for key, value in settings.items():
        if abs(value) > _LARGEST:
            raise ModelError(f"config of {folder}: {key} is {value}, which no model has")
        if key in _COUNTS and not 0 < value <= (tensors or _BLOCKS):
            raise ModelError(f"config of {folder}: {key} is {value}, and its checkpoint holds {tensors} tensors")
    for rows, columns in _MATRICES:
        asked = settings.get(rows, 0) * settings.get(columns, 0)
        unread = rows == "vocab_size" and "image_size" in settings  # of BEiT: its classifier has no such table
        if numbers and asked > numbers and not unread:
            raise ModelError(
                f"config of {folder}: {rows} x {columns} is {settings[rows]} x {settings[columns]}, and its checkpoint "
                f"holds {numbers:,} numbers in all: the checkpoint does not fit its config"
            )


def _stored(folder: Path) -> tuple[int, int]:
    """Tensors and numbers in a folder's safetensors files, from their headers; 0 where none can be read."""
    tensors = numbers = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as opened:
                file: Any = opened  # safetensors has no types
                for name in file.keys():
                    tensors += 1
                    numbers += math.prod(file.get_slice(name).get_shape())
        except (SafetensorError, OSError):
            return 0, 0  # whoever reads the file says what is wrong with it
    return tensors, numbers
