"""open_model(source): a checkpoint and the structure of its model, opened once and handed on."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateur.adapt.block_count import check_block_count
from secateur.adapt.structure import Structure
from secateur.core.errors import ModelError, NumericalError
from secateur.infer.names import Group, StoredNames
from secateur.storage.shards import Checkpoint
from secateur.storage.source import Source, open_whole, skeleton

__all__ = ["OpenModel", "open_model"]

_CPU = torch.device("cpu")


class OpenModel:
    """A model on disk: its structure, and its parameters for as long as they are needed.

    The names a model gives its parameters are matched to those of its checkpoint: some hub
    checkpoints were saved from the body alone and lack its prefix; a model that no table has
    goes by transformers' own mapping of names and shapes.
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
        for name, held in structure.model.named_buffers():
            if held.is_meta:
                raise ModelError(
                    f"{type(structure.model).__name__} computes {name} from its weights, so it cannot be read a block "
                    "at a time: it cannot be pruned here"
                )
        for module in structure.model.modules():  # not model.to: parameters without values cannot be moved
            module._buffers.update(
                {name: None if held is None else held.to(device) for name, held in module._buffers.items()}
            )
        self.solved: dict[str, Tensor] = {}
        model = structure.model
        self.prefix = "" if structure.body is model else f"{model.base_model_prefix}."
        check_block_count(model, checkpoint.names(), checkpoint.folder)
        infos = {name: checkpoint.info(name) for name in checkpoint.names()}
        self.names = StoredNames(model, infos) if structure.kind.inferred else None
        self._alias = _aliases(model)
        inside = {name for block in structure.blocks for name in block.tensors()}
        for name, tensor in model.named_parameters():
            if name in inside or name in self:  # some lack the head, which not every method reads
                stored = self._stored_shape(name)
                if stored != tuple(tensor.shape):
                    raise ModelError(
                        f"{name} is {list(stored)} in the checkpoint, but the config asks for {list(tensor.shape)}"
                    )

    def whole(self, dtype: torch.dtype | None = None) -> Structure:
        """The whole model in memory, on the same device, its structure found as this one's was."""
        inferred = self.structure.kind.inferred
        return open_whole(self.source, dtype or self.dtype, device=self.device, inferred=inferred)

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
        if self.names is not None:
            group = self._group(name)
            return () if group is None else tuple(group.sources)
        return name, name.removeprefix(self.prefix), name.replace("lm_head.", "embed_out.", 1)

    def _group(self, name: str) -> Group | None:
        """What an inferred model's parameter is made of, under whichever of its names it is stored."""
        assert self.names is not None
        return next((found for alias in self.aliases(name) if (found := self.names.group(alias))), None)

    def aliases(self, name: str) -> tuple[str, ...]:
        """Every name the model has for a parameter: several where modules share it."""
        return self._alias.get(name, (name,))

    def _stored_shape(self, name: str) -> tuple[int, ...]:
        stored = self.stored_name(name)
        group = None if self.names is None else self._group(name)
        if group is None:
            return self.checkpoint.info(stored)[1]
        return next(group.targets[alias] for alias in self.aliases(name) if alias in group.targets)

    def model_name(self, stored: str) -> str:
        """The model's name of a tensor in the checkpoint."""
        return stored if stored.startswith(self.prefix) else self.prefix + stored

    def dtype_of(self, name: str) -> torch.dtype:
        """What the checkpoint stores a parameter as."""
        return self.checkpoint.info(self.stored_name(name))[0]

    def parameter(self, name: str) -> Tensor:
        """A parameter's values as the checkpoint holds them, in the model's shape and the checkpoint's dtype."""
        if self.names is None:
            return self.checkpoint.read(self.stored_name(name))
        group = self._group(name)
        if group is None:
            raise ModelError(f"{self.checkpoint.folder} holds no tensor {self.stored_name(name)!r}")
        values = self.names.read(group, self.checkpoint.read)
        return next(values[alias] for alias in self.aliases(name) if alias in values)

    def bytes_each(self) -> int:
        """What a parameter of the blocks takes in the checkpoint."""
        return self.dtype_of(next(iter(self.structure.blocks[0].tensors()))).itemsize

    def outside_blocks(self) -> list[str]:
        """Parameters of the body that belong to no block: embeddings and norms."""
        inside = {name for block in self.structure.blocks for name in block.tensors()}
        body = self.structure.body
        names = [self.prefix + name for name, _ in body.named_parameters() if self.prefix + name not in inside]
        if self.names is None:
            return names
        return [name for name in names if not inside.intersection(self._alias.get(name, ()))]

    def outside_body(self) -> list[str]:
        """Parameters of the head: what is outside the body."""
        if not self.prefix:
            return []
        return [name for name, _ in self.structure.model.named_parameters() if not name.startswith(self.prefix)]

    @contextmanager
    def loaded(self, names: Iterable[str]) -> Iterator[None]:
        """Give these parameters their values, and let go of them afterwards.

        Buffers that the checkpoint holds, such as a router's correction bias, are given theirs and keep them.
        """
        names = list(names)
        try:
            for name in names:
                self._set(name, self._read(name))
            for name in self._buffers(names):
                self._set_buffer(name, self.parameter(name))
            yield
        finally:
            for name in names:
                self._set(name, torch.empty_like(self._get(name), device="meta"))  # shape and dtype stay, memory goes

    def _read(self, name: str) -> Tensor:
        known = next((alias for alias in self._alias.get(name, ()) if alias in self.solved), None)
        tensor = self.parameter(name) if known is None else self.solved[known]
        if not tensor.is_floating_point():
            raise ModelError(f"{name} is stored as {tensor.dtype}: pruning needs floating-point weights")
        if not torch.isfinite(tensor).all():
            raise NumericalError(f"{name} holds NaN or inf in the checkpoint")
        return tensor.to(device=self.device, dtype=self.dtype)

    def _get(self, name: str) -> Tensor:
        return self.structure.model.get_parameter(name)

    def _set(self, name: str, value: Tensor) -> None:
        # A meta parameter cannot be filled, only replaced.
        parameter = nn.Parameter(value, requires_grad=False)
        for alias in (name,) if self.names is None else self.aliases(name):  # modules that share it go on sharing it
            owner, _, leaf = alias.rpartition(".")
            setattr(self.structure.model.get_submodule(owner), leaf, parameter)

    def _buffers(self, names: Sequence[str]) -> list[str]:
        """Stored buffers of the modules that hold these parameters, and of those beside them."""
        if self.names is None:
            return []
        owners = {name.rpartition(".")[0] for name in names}
        held = [name for name, _ in self.structure.model.named_buffers() if self.names.group(name) is not None]
        return [name for name in held if any(_beside(name, owner) for owner in owners)]

    def _set_buffer(self, name: str, value: Tensor) -> None:
        owner, _, leaf = name.rpartition(".")
        held = self.structure.model.get_buffer(name)
        self.structure.model.get_submodule(owner)._buffers[leaf] = value.to(held.device, held.dtype)


def _beside(buffer: str, owner: str) -> bool:
    place = buffer.rpartition(".")[0]
    return place == owner or place.rpartition(".")[0] == owner or place == owner.rpartition(".")[0]


def _aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Every name of the parameters that have several, by each of them."""
    names: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(value), []).append(name)
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}


def open_model(source: Source, dtype: torch.dtype = torch.float32, device: torch.device = _CPU) -> OpenModel:
    """The checkpoint's headers and a model without weights; dtype is what forward passes compute in, on the device.

    Raises ModelError where the two do not fit, and for families that no table has.
    """
    return OpenModel(source, Checkpoint(source.folder), skeleton(source), dtype, device)
