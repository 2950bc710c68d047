"""Attention: one place where a model mixes positions by heads, as data; and the units it can lose."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.adapt.layer import Layer
from secateur.adapt.site import Site
from secateur.core.errors import InputError, ModelError

__all__ = ["Attention", "Kind", "site_weights", "span"]

Kind = Literal["encoder", "decoder", "cross"]


@dataclass(frozen=True, eq=False)
class Attention:
    """Heads of one attention: the layers that feed them and the one that reads them.

    kind: an encoder's or a decoder's own attention, or a decoder's over the encoder.
    layer: position in its stack. width: of one head. inputs: query, key and value, or
    one fused layer, whose rows come in `fused` order. module: what keeps the counts.
    tables: of position biases, with a row a head. picks_bias: the module takes its heads' share of
    biases that all blocks are given (`kept_heads`, once heads are cut). no_heads: why heads cannot
    be cut out, where they cannot. needs_a_head: the class cannot compute an attention without heads, so
    an emptied one keeps a silent head. name: of the block, or of the attention where a block has two or more.
    """

    name: str
    kind: Kind
    layer: int
    width: int
    inputs: tuple[Layer, ...]
    output: Layer
    module: nn.Module
    fused: Literal["parts", "heads"] = "parts"
    no_heads: str = ""
    needs_a_head: bool = False
    tables: tuple[Layer, ...] = ()
    picks_bias: bool = False

    @property
    def heads(self) -> int:
        """Query heads, read off the matrix that reads them."""
        return self.output.weight.shape[1] // self.width

    @property
    def parts(self) -> int:
        """How many of query, key and value one input layer holds: 3 where they are fused."""
        return 3 // len(self.inputs)

    @property
    def kv_heads(self) -> int:
        """Key-value heads: fewer than `heads` where several share one (GQA, MQA)."""
        rows = self.inputs[1 if len(self.inputs) == 3 else 0].weight.shape[0] // self.width
        return rows if len(self.inputs) == 3 else (rows - self.heads) // 2  # fused: q, k and v one below the other

    def unit(self, wanted: str = "auto") -> str:
        """kv_groups, heads or none; auto is kv_groups where there is more than one.

        Raises InputError when the attention cannot lose such units.
        """
        if wanted not in ("auto", "kv_groups", "heads", "none"):
            raise InputError(f"unit {wanted!r} is unknown: use auto, kv_groups, heads or none")
        if wanted == "none" or (wanted == "auto" and self.no_heads):
            return "none"
        if self.no_heads:
            instead = "; remove channels alone (--pattern channels)" if self.kind == "decoder" else ""
            raise InputError(f"{self.name} cannot lose heads: {self.no_heads}{instead}")
        return ("kv_groups" if self.kv_heads > 1 else "heads") if wanted == "auto" else wanted

    def site(self, unit: str) -> Site:
        """Units as rows and columns: kv_groups take their K and V along, heads leave shared K and V."""
        heads, kv_heads, width = self.heads, self.kv_heads, self.width
        if heads % max(kv_heads, 1):
            raise ModelError(f"{self.name} shares {kv_heads} KV heads among {heads} query heads unevenly")
        if unit == "kv_groups" and kv_heads == 1 and heads > 1:
            raise InputError(
                f"{self.name} has one KV head, and without it no attention is left: remove query heads "
                "(--pattern query-heads+channels, or --unit heads)"
            )
        shared = heads // max(kv_heads, 1)
        count = kv_heads if unit == "kv_groups" else heads
        query = span(count, heads // max(count, 1) * width)  # [units, width of the unit's query heads]
        key_value = [span(kv_heads, width), span(kv_heads, width)] if unit == "kv_groups" or shared == 1 else []
        columns = {self.output.name: query}
        rows = self._rows(count, query, key_value) | {table.name: span(count, heads // count) for table in self.tables}
        groups = kv_heads if unit == "heads" and shared > 1 else 1  # every KV head keeps equally many query heads
        layers = {layer.name: layer for layer in (*self.inputs, self.output, *self.tables)}
        return Site(f"{self.name}.{unit}", unit, count, site_weights(layers, rows, columns), rows, columns, groups)

    def _rows(self, count: int, query: Tensor, key_value: list[Tensor]) -> dict[str, Tensor]:
        if len(self.inputs) == 3:
            return {layer.name: index for layer, index in zip(self.inputs, [query, *key_value], strict=False)}
        if self.fused == "heads":
            # Q, k and v of a head stand together (GPT-NeoX, BLOOM)
            return {self.inputs[0].name: span(count, 3 * self.width)}
        starts = (self.heads * self.width, (self.heads + self.kv_heads) * self.width)
        # Nothing is taken of shared K and V, and then `key_value` is empty.
        parts = [index + start for index, start in zip(key_value, starts, strict=False)]
        return {self.inputs[0].name: torch.cat([query, *parts], dim=1)}


def span(count: int, size: int) -> Tensor:
    """Consecutive indices `[count, size]`."""
    return torch.arange(count * size).reshape(count, size)


def site_weights(layers: Mapping[str, Layer], rows: Mapping[str, Tensor], columns: Mapping[str, Tensor]) -> int:
    """Parameters one unit takes, biases of its rows included."""
    total = 0
    for name, index in rows.items():
        biased = layers[name].bias is not None
        total += index.shape[1] * (layers[name].weight.shape[1] + biased)
    return total + sum(index.shape[1] * layers[name].weight.shape[0] for name, index in columns.items())
