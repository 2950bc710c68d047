"""Structure: what can be cut in a model, as data; describe(model) makes it, and is the one fork on model kind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from secateur.adapt.attention import Attention
from secateur.adapt.block import Block, Sizes
from secateur.adapt.decoder import decoder_blocks, lists_sizes, resize_, settle_, shrunk_config
from secateur.adapt.decoder_table import DECODERS
from secateur.adapt.encoder import encoder_blocks, heads_config, lists_heads, resize_heads_, settle_heads_
from secateur.adapt.encoder_table import ENCODERS
from secateur.adapt.layer import Layer
from secateur.adapt.site import Site
from secateur.core.errors import ModelError

__all__ = ["ModelKind", "Structure", "describe", "kind_of", "known_kinds"]

_ORDER = ("encoder", "decoder", "cross")


class ModelKind(NamedTuple):
    """What differs between kinds of model, as functions of their blocks.

    causal: a language model that reads from left to right, whose blocks hold all that is pruned.
    inferred: no table has it; its structure is read off what it computes. sites: finds its sites, with their blocks.
    """

    causal: bool
    blocks: Callable[[PreTrainedModel], tuple[Block, ...]]
    lists_sizes: Callable[[PretrainedConfig], bool]
    resize_: Callable[[Sequence[Block], PretrainedConfig], None]
    settle_: Callable[[Sequence[Block]], None]
    config: Callable[[dict[str, Any], PretrainedConfig, Sequence[Block]], dict[str, Any]]
    bias_fields: Callable[[PretrainedConfig], tuple[str, ...]] = lambda config: ()
    inferred: bool = False
    sites: "Callable[[Structure, str], list[tuple[str, Site]]] | None" = None


def _decoder_config(document: dict[str, Any], config: PretrainedConfig, blocks: Sequence[Block]) -> dict[str, Any]:
    return shrunk_config(document, config, [block.sizes for block in blocks])


def _bias_fields(config: PretrainedConfig) -> tuple[str, ...]:
    return DECODERS[config.model_type].bias_fields


_KINDS: tuple[tuple[Mapping[str, Any], ModelKind], ...] = (
    (DECODERS, ModelKind(True, decoder_blocks, lists_sizes, resize_, settle_, _decoder_config, _bias_fields)),
    (ENCODERS, ModelKind(False, encoder_blocks, lists_heads, resize_heads_, settle_heads_, heads_config)),
)


def known_kinds(*, causal: bool = False) -> list[str]:
    """Every model_type that a table has; causal: of language models alone."""
    return [name for table, kind in _KINDS if kind.causal or not causal for name in table]


def kind_of(config: PretrainedConfig) -> ModelKind | None:
    """The kind of a config's model_type; None where no table has it."""
    return next((kind for table, kind in _KINDS if config.model_type in table), None)


@dataclass(frozen=True, eq=False)
class Structure:
    """A model as its blocks, in forward order, with what can be cut of them.

    The blocks are read off the model's modules, and their sizes change with the matrices. memo: what was found out
    about the model and takes time.
    """

    model: PreTrainedModel
    kind: ModelKind
    blocks: tuple[Block, ...]
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def attentions(self) -> list[Attention]:
        """Every attention: an encoder's before a decoder's own, and those before the cross ones."""
        attentions = [attention for block in self.blocks for attention in block.attentions]
        return sorted(attentions, key=lambda attention: _ORDER.index(attention.kind))  # stable: layers keep their order

    @property
    def layers(self) -> list[Layer]:
        """Every layer of every block, in forward order."""
        return [layer for block in self.blocks for layer in block.layers]

    @property
    def body(self) -> nn.Module:
        """The model without its head: what turns token ids into hidden states."""
        return self.model.base_model

    @property
    def sizes(self) -> list[Sizes]:
        """Every block's sizes."""
        return [block.sizes for block in self.blocks]

    @property
    def bias_fields(self) -> tuple[str, ...]:
        """Config switches that give every layer of a block a bias it lacks."""
        return self.kind.bias_fields(self.model.config)

    def layer(self, name: str) -> Layer:
        """A layer by its name in the model."""
        if self.kind.inferred:
            return self._named[name]
        return Layer(name, self.model.get_submodule(name))

    @cached_property
    def _named(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def shape(self, name: str) -> tuple[int, int]:
        """A layer's `[out, in]` by its name in the model."""
        rows, columns = self.layer(name).weight.shape
        return rows, columns

    def sites(self, unit: str = "auto") -> list[Site]:
        """Every block's sites; `unit` says what attentions lose (auto, kv_groups, heads, none)."""
        return [site for group in self.sites_by_block(unit).values() for site in group]

    def sites_by_block(self, unit: str = "auto") -> dict[str, list[Site]]:
        """The same by the name of their block."""
        if self.kind.sites is None:
            return {block.name: block.sites(unit) for block in self.blocks}
        found: dict[str, list[Site]] = {block.name: [] for block in self.blocks}
        for block, site in self.kind.sites(self, unit):
            found[block].append(site)
        return found

    def sites_of(self, names: Sequence[str]) -> list[Site]:
        """Every site, with heads or KV groups as the names of a cut say."""
        ends = {name.rpartition(".")[2] for name in names}
        return self.sites(next((unit for unit in ("kv_groups", "heads") if unit in ends), "none"))

    def resize_(self, config: PretrainedConfig) -> None:
        """Give every block matrices of the sizes that the config lists, without values."""
        self.kind.resize_(self.blocks, config)

    def settle_(self) -> None:
        """Tell modules the sizes their matrices have now."""
        self.kind.settle_(self.blocks)

    def config(self, document: dict[str, Any]) -> dict[str, Any]:
        """config.json of a model of these sizes, from that of the dense one. Raises ModelError where no field can."""
        return self.kind.config(document, self.model.config, self.blocks)


def describe(model: PreTrainedModel) -> Structure:
    """What can be cut in a model. Raises ModelError for a family that no table has, or that looks otherwise."""
    kind = kind_of(model.config)
    if kind is None:
        raise ModelError(
            f"architecture {model.config.model_type!r} is not in the tables of attentions "
            f"({', '.join(sorted(known_kinds()))}): add a row to secateur/adapt/decoder_table.py or encoder_table.py, "
            "or install a package that has one, see docs/adapt.md"
        )
    try:
        return Structure(model, kind, kind.blocks(model))
    except AttributeError as error:  # a module that a table names is missing
        raise ModelError(
            f"{type(model).__name__} does not look like its family {model.config.model_type!r}: {error}"
        ) from error
