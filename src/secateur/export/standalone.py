"""A folder that loads without secateur: the modeling file its config's auto_map names stands beside it."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedModel

from secateur.adapt.attention import Attention
from secateur.adapt.decoder import settled_numbers
from secateur.adapt.encoder import head_numbers
from secateur.adapt.structure import kind_of
from secateur.core.errors import InputError
from secateur.core.files import read_document, write_document
from secateur.storage.folder import Edits, copy_companions, write_pruned
from secateur.storage.shards import Checkpoint
from secateur.storage.source import Source, open_whole, read_config, skeleton

__all__ = ["write_standalone"]

_MODELING = '''"""{stocks} whose blocks differ in size; config.json lists the shapes."""

import copy

import torch
from torch import nn
from transformers import {stocks}


class Shrunk:
    def __init__(self, config, *args, **kwargs):
        plain = copy.copy(config)
        plain.__dict__.pop("_heterogeneity_spec", None)
        super().__init__(plain, *args, **kwargs)
        for name, (rows, columns) in config.shrunk_layers.items():
            layer = self.part(name)
            transposed = hasattr(layer, "nf")  # GPT-2 stores [in, out]
            shape = (columns, rows) if transposed else (rows, columns)
            layer.weight = nn.Parameter(layer.weight.new_empty(shape))
            if getattr(layer, "bias", None) is not None:
                layer.bias = nn.Parameter(layer.bias.new_empty(rows))
            names = ("nx", "nf") if transposed else ("in_features", "out_features")
            for key, size in zip(names, (columns, rows)):
                setattr(layer, key, size)
        for name, (heads, positions) in getattr(config, "shrunk_tables", {{}}).items():
            part, key = self.part(name), "relative_position_bias_table"
            setattr(part, key, nn.Parameter(getattr(part, key).new_empty(positions, heads)))
        for name, numbers in config.shrunk_attention.items():
            attention = self.part(name)
            for key, value in numbers.items():
                if key == "config":
                    attention.config = copy.copy(attention.config)
                    for field, number in value.items():
                        setattr(attention.config, field, number)
                else:
                    setattr(attention, key, value)
        for name, heads in getattr(config, "shrunk_picks", {{}}).items():
            attention = self.part(name)
            attention.register_buffer("kept_heads", torch.arange(heads))
            attention.register_forward_pre_hook(own_columns)
        for name, (heads, buckets) in getattr(config, "shrunk_bias", {{}}).items():
            attention = self.part(name)
            attention.n_heads = heads
            attention.register_forward_pre_hook(own_bias, with_kwargs=True)
            if buckets:
                attention.relative_attention_bias = nn.Embedding(buckets, heads)
                attention.has_relative_attention_bias = True
        config._attn_implementation = plain._attn_implementation
        self.config = config

    def part(self, name):
        bare = name.removeprefix(self.base_model_prefix + ".")  # the body alone has its parts at the top
        return self.get_submodule(name if hasattr(self, self.base_model_prefix) else bare)


def own_columns(module, args):
    """MPNet hands one bias of all dense heads to all blocks; here each takes the columns of its own heads."""
    return (*args[:2], args[2][:, module.kept_heads], *args[3:])


def own_bias(module, args, kwargs):
    """T5 shares a table of position biases among blocks; here each has the columns of its own heads."""
    return args, kwargs | ({{"position_bias": None}} if "position_bias" in kwargs else {{}})
'''
_CLASS = """

class Shrunk{stock}(Shrunk, {stock}):
    pass
"""


def write_standalone(source: Source, out: Path) -> None:
    """Copy a model folder into `out`, with a class of its own for `trust_remote_code=True`.

    Raises InputError when plain transformers loads the folder as it is.
    """
    folder = source.folder
    document = read_document(folder / "config.json")
    if not document.keys() & {"per_layer_config", "heads_per_layer"}:
        raise InputError(f"{folder} has blocks of equal size, so plain transformers loads it as it is")
    kind = kind_of(read_config(source))
    streamed = kind is not None and kind.causal
    structure = skeleton(source) if streamed else open_whole(source, as_saved=True)
    model = structure.model
    copy_companions(folder, out)
    if streamed:
        checkpoint = Checkpoint(folder)
        write_pruned(checkpoint, out, Edits(name=_own_names(checkpoint, model).__getitem__))
    else:
        _write_whole(model, out)
    names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    owners = [(block, attention) for block in structure.blocks for attention in block.attentions]
    own = [attention for _, attention in owners if hasattr(attention.module, "computes_own_bias")]
    document |= {
        "shrunk_layers": {layer.name: list(layer.weight.shape) for layer in structure.layers},
        "shrunk_attention": {
            names[id(one.module)]: settled_numbers(block) if streamed else head_numbers(one) for block, one in owners
        },
        "shrunk_tables": {table.name: list(table.weight.shape) for _, one in owners for table in one.tables},
        "shrunk_picks": {names[id(one.module)]: one.heads for _, one in owners if one.picks_bias},
        "shrunk_bias": {names[id(attention.module)]: _bias(attention) for attention in own},
    }
    _write_classes(model, document, out)


def _write_whole(model: PreTrainedModel, out: Path) -> None:
    """Every tensor under the model's own name, tied ones once; transformers renames some families' when it saves."""
    kept = {id(value): name for name, value in reversed(model.state_dict(keep_vars=True).items())}
    values = {name: value for name, value in model.state_dict().items() if name in kept.values()}
    save_file({name: value.contiguous() for name, value in values.items()}, out / "model.safetensors", {"format": "pt"})


def _bias(attention: Attention) -> tuple[int, int]:
    module: Any = attention.module
    return module.n_heads, module.relative_attention_num_buckets if module.has_relative_attention_bias else 0


def _write_classes(model: PreTrainedModel, document: dict[str, Any], out: Path) -> None:
    """Write the config, and a class for every Auto class that loads models of this kind."""
    classes = _auto_classes(model)
    document["auto_map"] = {auto: f"modeling_shrunk.Shrunk{stock}" for auto, stock in classes.items()}
    write_document(out / "config.json", document)
    stocks = sorted(set(classes.values()))
    text = _MODELING.format(stocks=", ".join(stocks)) + "".join(_CLASS.format(stock=stock) for stock in stocks)
    (out / "modeling_shrunk.py").write_text(text, encoding="utf-8")


def _auto_classes(model: PreTrainedModel) -> dict[str, str]:
    """Class names by the Auto classes that give them for this kind of config."""
    from transformers.models.auto import modeling_auto

    found: dict[str, str] = {}
    for name, auto in vars(modeling_auto).items():
        if name.startswith("AutoModel"):
            stock: Any = auto._model_mapping.get(type(model.config), ())
            known = stock if isinstance(stock, tuple) else (stock,)
            own = [one.__name__ for one in known if one.__module__ == type(model).__module__]
            named = type(model).__name__
            if own:
                found[name] = named if named in own else own[0]
    return found


def _own_names(checkpoint: Checkpoint, model: PreTrainedModel) -> dict[str, str]:
    """Stored names to the model's own: transformers renames tensors for its own classes alone."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    prefix = f"{model.base_model_prefix}."
    names = {name: name if name in shapes else prefix + name for name in checkpoint.names()}
    for stored, own in names.items():
        if own not in shapes:
            taken = set(names.values())
            fitting = [name for name in shapes.keys() - taken if shapes[name] == checkpoint.info(stored)[1]]
            names[stored] = fitting[0] if len(fitting) == 1 else stored
    return names
