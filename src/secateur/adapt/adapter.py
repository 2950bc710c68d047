"""Adapter, Block, Layer: find a model's family by its config, with a readable refusal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from secateur.adapt.decoder_table import DECODERS, Decoder
from secateur.core.errors import ModelError
from secateur.core.shapes import Weight

__all__ = ["Adapter", "Block", "Layer", "family_of"]


def family_of(config: PretrainedConfig) -> Decoder:
    """The table row of a config's model_type.

    Raises ModelError naming the known families and how to add one, and refuses
    quantised checkpoints.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            "the checkpoint is quantised, and pruning needs plain floating-point weights: "
            "start from the unquantised model"
        )
    if config.model_type not in DECODERS:
        raise ModelError(
            f"architecture {config.model_type!r} is not in the table of families "
            f"({', '.join(sorted(DECODERS))}): add a row with its module names to "
            "secateur/adapt/decoder_table.py, see docs/adapt.md"
        )
    return DECODERS[config.model_type]


@dataclass(frozen=True)
class Layer:
    """One weight-bearing module of a block, seen as `[out, in]` however it is stored."""

    name: str
    module: nn.Module

    @property
    def transposed(self) -> bool:
        """Whether the module stores `[in, out]` (GPT-2's Conv1D)."""
        return isinstance(self.module, Conv1D)

    @property
    def weight(self) -> Weight:
        """The weight as `[out, in]`."""
        stored = self.module.get_parameter("weight").detach()
        return stored.T if self.transposed else stored

    def set_weight(self, weight: Weight) -> None:
        """Overwrite the module's weight from `[out, in]`, in its own dtype and layout."""
        self.module.get_parameter("weight").data.copy_(weight.T if self.transposed else weight)

    @property
    def bias(self) -> Tensor | None:
        """The bias `[out]`, where there is one."""
        bias = getattr(self.module, "bias", None)
        return None if bias is None else bias.detach()

    def set_bias(self, bias: Tensor) -> None:
        """Overwrite the bias `[out]`, or give the module one, in its weight's dtype."""
        module: Any = self.module
        module.bias = nn.Parameter(bias.to(module.weight.dtype), requires_grad=False)

    @property
    def size(self) -> int:
        """Parameters, the bias included."""
        return self.weight.numel() + (0 if self.bias is None else self.bias.numel())

    def replace_(self, weight: Tensor, bias: Tensor | None) -> None:
        """Put in a weight `[out, in]` and bias `[out]` of another shape."""
        module: Any = self.module
        module.weight = nn.Parameter((weight.T if self.transposed else weight).contiguous(), requires_grad=False)
        if bias is not None:
            module.bias = nn.Parameter(bias, requires_grad=False)
        names = ("nx", "nf") if self.transposed else ("in_features", "out_features")
        for name, size in zip(names, reversed(weight.shape), strict=True):
            setattr(module, name, size)

    def reshape_(self, rows: int, columns: int) -> None:
        """Take another shape `[out, in]`, without values."""
        bias = self.bias
        self.replace_(self.weight.new_empty(rows, columns), None if bias is None else bias.new_empty(rows))


@dataclass(frozen=True)
class Block:
    """One transformer block: its name in the model, its module, its family's names."""

    name: str
    module: nn.Module
    family: Decoder

    def layer(self, name: str) -> Layer:
        """A layer by its name inside the block."""
        return Layer(f"{self.name}.{name}", self.module.get_submodule(name))

    def named(self, name: str) -> Layer:
        """A layer by its name in the model."""
        return self.layer(name.removeprefix(f"{self.name}."))

    def stages(self) -> Sequence[Sequence[Layer]]:
        """Layers in forward order, grouped where they read the same tensor."""
        family = self.family
        groups = (family.attention_in, (family.attention_out,), family.ffn_in, (family.ffn_out,))
        return [[self.layer(name) for name in group] for group in groups]

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter of the block by its name in the model."""
        return {f"{self.name}.{name}": value for name, value in self.module.named_parameters()}


class Adapter:
    """A model seen as a sequence of blocks."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Find the family. Raises ModelError when a named part is missing, or a matrix of a block has no name."""
        self.model = model
        self.family = family_of(model.config)
        self.place = self.family.blocks
        if not hasattr(model, model.base_model_prefix):  # the body alone
            self.place = self.place.removeprefix(f"{model.base_model_prefix}.")
        try:
            self.modules = model.get_submodule(self.place)
            for block in self.blocks():
                _check_complete(block)
        except AttributeError as error:
            raise ModelError(
                f"{type(model).__name__} does not look like its family {model.config.model_type!r}: {error}"
            ) from error

    def blocks(self) -> list[Block]:
        """All blocks, in forward order."""
        return [
            Block(f"{self.place}.{index}", module, self.family) for index, module in enumerate(self.modules.children())
        ]

    def layers(self) -> list[Layer]:
        """Every layer of every block, in forward order."""
        return [layer for block in self.blocks() for stage in block.stages() for layer in stage]

    def shape(self, name: str) -> tuple[int, int]:
        """A layer's `[out, in]` by its name in the model."""
        rows, columns = Layer(name, self.model.get_submodule(name)).weight.shape
        return rows, columns

    @property
    def body(self) -> nn.Module:
        """The model without its head: what turns token ids into hidden states."""
        return self.model.get_submodule(self.model.base_model_prefix)


def _check_complete(block: Block) -> None:
    """Raise ModelError on a matrix of a block that no stage names: pruning would pass over it without a word."""
    named = {f"{layer.name}.weight" for stage in block.stages() for layer in stage}
    for name, tensor in block.tensors().items():
        if tensor.dim() > 1 and name not in named:
            raise ModelError(
                f"{name} {list(tensor.shape)} belongs to no stage of the family's row in adapt/decoder_table.py: this "
                "variant (cross-attention, experts, ...) cannot be pruned yet"
            )
