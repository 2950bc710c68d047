"""DeciLM folders, which vLLM serves: KV heads and ffn sizes of its own in every block, by block_configs."""

from pathlib import Path
from typing import Any

from secateur.adapt.decoder import head_dim
from secateur.core.errors import ModelError
from secateur.core.files import read_document, write_document
from secateur.storage.folder import Edits, copy_companions, write_pruned
from secateur.storage.shards import Checkpoint
from secateur.storage.source import Source, skeleton

__all__ = ["write_decilm"]

_ROUND = 256  # readers of ffn_mult round sizes up to this
_CONFIG = '''"""Config of a model whose blocks differ; vLLM reads block_configs by attribute."""

from transformers import LlamaConfig


class Part(dict):
    def __init__(self, data):
        super().__init__({key: Part(value) if isinstance(value, dict) else value for key, value in data.items()})

    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(name)
        return self[name]


class DeciLMConfig(LlamaConfig):
    model_type = "nemotron-nas"
    block_configs: list | None = None

    def __post_init__(self, **kwargs):
        self.block_configs = [Part(block) for block in self.block_configs or []]
        super().__post_init__(**kwargs)
'''


def write_decilm(source: Source, out: Path) -> None:
    """Write a Llama-type model folder with DeciLM's config into the folder `out`; weights stay as they are.

    vLLM's DeciLMForCausalLM reads it with --trust-remote-code, for the config class written
    beside it. Raises ModelError on other architectures, and where blocks differ in query
    heads, which DeciLM counts once for all.
    """
    structure = skeleton(source)
    config = structure.model.config
    if config.model_type != "llama":
        raise ModelError(
            f"DeciLM is a Llama with sizes by block, this is {config.model_type!r}: keep the folder as it is"
        )
    sizes = structure.sizes
    heads = {size.heads for size in sizes}
    if len(heads) > 1:
        raise ModelError(
            f"DeciLM counts query heads once for all blocks, and these have {min(heads)} to {max(heads)}: "
            "prune with --allocator uniform, or channels only (--pattern channels)"
        )
    folder = source.folder
    copy_companions(folder, out)
    checkpoint = Checkpoint(folder)
    write_pruned(checkpoint, out, Edits())
    document = read_document(folder / "config.json")
    for key in ("per_layer_config", "allow_global_per_layer_attribute_access"):
        document.pop(key, None)
    document |= {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "auto_map": {"AutoConfig": "configuration_decilm.DeciLMConfig"},
        "num_attention_heads": sizes[0].heads,
        "head_dim": head_dim(config),
        "block_configs": [
            {"attention": _attention(size.heads // size.kv_heads), "ffn": _ffn(size.ffn, config.hidden_size)}
            for size in sizes
        ],
    }
    write_document(out / "config.json", document)
    (out / "configuration_decilm.py").write_text(_CONFIG)


def _attention(shared: int) -> dict[str, Any]:
    return {"n_heads_in_group": shared, "no_op": False, "replace_with_linear": False}


def _ffn(size: int, hidden: int) -> dict[str, Any]:
    """The size itself, or the multiplier that older readers want where it gives the same size."""
    part: dict[str, Any] = {"no_op": False, "replace_with_linear": False, "intermediate_size": size}
    if size % _ROUND == 0:
        part["ffn_mult"] = 3 * (size - _ROUND / 2) / (2 * hidden)  # rounded up again: safe from truncation
    return part
