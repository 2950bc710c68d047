"""A folder whose 2:4 weights are packed: 9/16 of their dense bfloat16 bytes, loaded by `secateur.load`."""

from pathlib import Path

from secateur.runtime.packed_file import PACKED, save_packed
from secateur.storage.folder import copy_companions
from secateur.storage.open_model import open_model
from secateur.storage.source import Source

__all__ = ["write_packed"]


def write_packed(source: Source, out: Path) -> None:
    """Write a pruned model's tensors packed. Raises InputError where no layer is 2:4, ModelError for other families."""
    opened = open_model(source)
    linear = {layer.name for layer in opened.structure.layers if not layer.transposed}
    copy_companions(source.folder, out, code=source.trusted)
    names = opened.checkpoint.names()
    save_packed(out / PACKED, ((opened.model_name(name), opened.checkpoint.read(name)) for name in names), linear)
