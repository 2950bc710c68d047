"""open_model(source): a checkpoint and the structure of its model, opened once and handed on."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateur.adapt.block_count import check_block_count
from secateur.adapt.structure import Structure
from secateur.core.errors import ModelError, NumericalError
from secateur.storage.shards import Checkpoint
from secateur.storage.source import Source, skeleton

__all__ = ["OpenModel", "open_model"]

_CPU = torch.device("cpu")


class OpenModel:
    """A model on disk: its structure, and its parameters for as long as they are needed.

    The names a model gives its parameters are matched to those of its checkpoint: some hub
    checkpoints were saved from the body alone and lack its prefix.
    """

    def __init__(
        self,
        source: Source,
        checkpoint: Checkpoint,
        structure: Structure,
        dtype: torch.dtype,
        device: torch.device = _CPU,
    ) -> None:
        """Match names and shapes, and move the model's buffers to the device.

        Raises ModelError naming the first one missing in a block, of another shape, or of a block too many.
        """
        self.source = source
        self.checkpoint = checkpoint
        self.structure = structure
        self.dtype = dtype
        self.device = device
        for module in structure.model.modules():  # not model.to: parameters without values cannot be moved
            module._buffers.update(
                {name: None if held is None else held.to(device) for name, held in module._buffers.items()}
            )
        self.prefix = f"{structure.model.base_model_prefix}."
        inside = {name for block in structure.blocks for name in block.tensors()}
        check_block_count(structure.model, checkpoint.names(), checkpoint.folder)
        for name, tensor in structure.model.named_parameters():
            if name in inside or name in self:  # some lack the head, which not every method reads
                stored = checkpoint.info(self.stored_name(name))[1]
                if stored != tuple(tensor.shape):
                    raise ModelError(
                        f"{name} is {list(stored)} in the checkpoint, but the config asks for {list(tensor.shape)}"
                    )

    def stored_name(self, name: str) -> str:
        """A parameter's name in the checkpoint. Raises ModelError when it has none."""
        for candidate in self._candidates(name):
            if candidate in self.checkpoint:
                return candidate
        raise ModelError(f"{self.checkpoint.folder} holds no tensor {name!r}: the checkpoint does not fit its config")

    def __contains__(self, name: str) -> bool:
        """Whether the checkpoint holds this parameter."""
        return any(candidate in self.checkpoint for candidate in self._candidates(name))

    def _candidates(self, name: str) -> tuple[str, ...]:
        """What checkpoints call a parameter: with the body's prefix or without, and GPT-NeoX's head by its old name."""
        return name, name.removeprefix(self.prefix), name.replace("lm_head.", "embed_out.", 1)

    def model_name(self, stored: str) -> str:
        """The model's name of a tensor in the checkpoint."""
        return stored if stored.startswith(self.prefix) else self.prefix + stored

    def dtype_of(self, name: str) -> torch.dtype:
        """What the checkpoint stores a parameter as."""
        return self.checkpoint.info(self.stored_name(name))[0]

    def bytes_each(self) -> int:
        """What a parameter of the blocks takes in the checkpoint."""
        return self.dtype_of(next(iter(self.structure.blocks[0].tensors()))).itemsize

    def outside_blocks(self) -> list[str]:
        """Parameters of the body that belong to no block: embeddings and norms."""
        inside = {name for block in self.structure.blocks for name in block.tensors()}
        body = self.structure.body
        return [self.prefix + name for name, _ in body.named_parameters() if self.prefix + name not in inside]

    def outside_body(self) -> list[str]:
        """Parameters of the head: what is outside the body."""
        return [name for name, _ in self.structure.model.named_parameters() if not name.startswith(self.prefix)]

    @contextmanager
    def loaded(self, names: Iterable[str]) -> Iterator[None]:
        """Give these parameters their values, and let go of them afterwards."""
        names = list(names)
        try:
            for name in names:
                self._set(name, self._read(name))
            yield
        finally:
            for name in names:
                self._set(name, torch.empty_like(self._get(name), device="meta"))  # shape and dtype stay, memory goes

    def _read(self, name: str) -> Tensor:
        tensor = self.checkpoint.read(self.stored_name(name))
        if not tensor.is_floating_point():
            raise ModelError(f"{name} is stored as {tensor.dtype}: pruning needs floating-point weights")
        if not torch.isfinite(tensor).all():
            raise NumericalError(f"{name} holds NaN or inf in the checkpoint")
        return tensor.to(device=self.device, dtype=self.dtype)

    def _get(self, name: str) -> Tensor:
        return self.structure.model.get_parameter(name)

    def _set(self, name: str, value: Tensor) -> None:
        owner, _, leaf = name.rpartition(".")
        module = self.structure.model.get_submodule(owner)
        # A meta parameter cannot be filled, only replaced.
        setattr(module, leaf, nn.Parameter(value, requires_grad=False))


def open_model(source: Source, dtype: torch.dtype = torch.float32, device: torch.device = _CPU) -> OpenModel:
    """The checkpoint's headers and a model without weights; dtype is what forward passes compute in, on the device.

    Raises ModelError where the two do not fit, and for families that no table has.
    """
    return OpenModel(source, Checkpoint(source.folder), skeleton(source), dtype, device)
