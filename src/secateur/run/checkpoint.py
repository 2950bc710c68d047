"""One finished block is one file; a restart reads them and gives the same bits."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.core.document import read_document, storage_errors, write_document
from secateur.core.errors import InputError

__all__ = ["FinishedBlock", "RunFolder"]


class FinishedBlock(NamedTuple):
    """What a block's file holds: new weights, packed masks, the layers' reports, and new biases."""

    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    reports: list[dict[str, Any]]
    biases: dict[str, Tensor]


class RunFolder:
    """The working folder of a run, beside its output; moved or removed when whole."""

    def __init__(self, out: Path) -> None:
        """Name the folder; nothing is created yet."""
        self.out = out
        self.path = out.with_name(out.name + ".partial")

    def open(self, plan: dict[str, Any], *, resume: bool) -> int:
        """Start or resume, and return how many blocks are finished.

        Raises InputError when the output exists, when an unfinished run is there and
        resume is off, or when it was started with another plan.
        """
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise InputError(f"output {str(self.out)!r} already exists: remove it or name another folder")
        if self.path.exists():
            if not resume:
                raise InputError(
                    f"{str(self.path)!r} holds an unfinished run: add --resume to go on, or remove it to start again"
                )
            if (self.path / "plan.json").exists():
                self._check_plan(plan)
                return self._finished()
        with storage_errors(self.path):
            (self.path / "blocks").mkdir(parents=True, exist_ok=True)
            write_document(self.path / "plan.json", plan)
        return 0

    def planned(self, key: str) -> Any:
        """What an unfinished run's plan says, or None without one."""
        path = self.path / "plan.json"
        return read_document(path).get(key) if path.exists() else None

    def save_block(self, index: int, block: FinishedBlock) -> None:
        """Write a finished block under its final name only when whole."""
        tensors = {f"weight:{name}": tensor for name, tensor in block.weights.items()}
        tensors |= {f"mask:{name}": tensor for name, tensor in block.masks.items()}
        tensors |= {f"bias:{name}": tensor for name, tensor in block.biases.items()}
        self._save(self._block(index), tensors, {"reports": json.dumps(block.reports)})

    def load_block(self, index: int) -> FinishedBlock:
        """Read a finished block. Raises InputError when its file is damaged."""
        try:
            with safe_open(self._block(index), framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}
                reports = json.loads((file.metadata() or {})["reports"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise InputError(
                f"{self._block(index)} is damaged ({error}): remove {self.path} and start again"
            ) from error
        parts = {
            kind: {key.removeprefix(kind): value for key, value in tensors.items() if key.startswith(kind)}
            for kind in ("weight:", "mask:", "bias:")
        }
        return FinishedBlock(parts["weight:"], parts["mask:"], reports, parts["bias:"])

    def save_hidden(self, index: int, hidden: list[Tensor]) -> None:
        """Write the inputs of block `index`."""
        self._save(self._hidden(index), {f"{i:06d}": tensor for i, tensor in enumerate(hidden)}, {})

    def drop_hidden(self, index: int) -> None:
        """Forget the inputs of a block that is finished."""
        self._hidden(index).unlink(missing_ok=True)

    def load_hidden(self, index: int) -> list[Tensor]:
        """Read the inputs of block `index`. Raises InputError when they are damaged."""
        try:
            with safe_open(self._hidden(index), framework="pt") as file:
                return [file.get_tensor(key).clone() for key in sorted(file.keys())]
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{self._hidden(index)} is damaged ({error}): remove {self.path} and start again"
            ) from error

    def save_gradients(self, tensors: dict[str, Tensor]) -> None:
        """Write every layer's gradient."""
        self._save(self.path / "gradients.safetensors", tensors, {})

    def has_gradients(self) -> bool:
        """Whether gradients were written."""
        return (self.path / "gradients.safetensors").exists()

    def load_gradient(self, layer: str) -> Tensor:
        """Read one layer's gradient. Raises InputError when the file is damaged."""
        path = self.path / "gradients.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(layer)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged ({error}): remove {self.path} and start again") from error

    def save_state(self, tensors: dict[str, Tensor], losses: list[float]) -> None:
        """Write a training state and the losses so far."""
        self._save(self.path / "training.safetensors", tensors, {"losses": json.dumps(losses)})

    def load_state(self) -> tuple[dict[str, Tensor], list[float]] | None:
        """The last training state, or None before the first. Raises InputError when it is damaged."""
        path = self.path / "training.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                losses = json.loads((file.metadata() or {})["losses"])
                return {key: file.get_tensor(key) for key in file.keys()}, losses
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}): remove {self.path} and start again") from error

    def finish(self, model: Path) -> None:
        """Move the finished model to its name and remove everything else."""
        with storage_errors(self.out):
            if self.out.exists():
                self.out.rmdir()
            model.replace(self.out)
            shutil.rmtree(self.path)

    def _save(self, path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        partial = path.with_suffix(".tmp")
        with storage_errors(self.path):
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)
            partial.replace(path)

    def _block(self, index: int) -> Path:
        return self.path / "blocks" / f"{index:05d}.safetensors"

    def _hidden(self, index: int) -> Path:
        return self.path / f"hidden-{index:05d}.safetensors"

    def _finished(self) -> int:
        count = 0
        while self._block(count).exists():
            count += 1
        return count

    def _check_plan(self, plan: dict[str, Any]) -> None:
        before = read_document(self.path / "plan.json")
        now = json.loads(json.dumps(plan))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise InputError(
                    f"{str(self.path)!r} was started with another {key} ({before.get(key)!r}, now {now.get(key)!r}): "
                    "repeat the first command, or remove the folder to start again"
                )
