"""One finished block is one file; a restart reads them and gives the same bits."""

import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.files import check_output, read_sealed, storage_errors, write_sealed
from secateur.storage.folder_lock import FolderLock
from secateur.storage.sealed import load_sealed, save_sealed

__all__ = ["FinishedBlock", "RunFolder"]

_PLAN, _FINISHED, _MODEL, _START = "plan.json", "finished.json", "model", "start.safetensors"
_FILES = re.compile(
    r"(plan|finished|gradients|allocation|candidates)\.json|(hidden-\d{5,}|training|start)\.safetensors"
)
_INSIDE = {"blocks": re.compile(r"\d{5,}\.safetensors"), "gradients": re.compile(r".+\.safetensors")}
_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{6}-\d+-[0-9a-f]{8}\.(json|safetensors)")  # as it is written


class FinishedBlock(NamedTuple):
    """What a block's file holds: new weights, packed masks, the layers' reports, and new biases."""

    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    reports: list[dict[str, Any]]
    biases: dict[str, Tensor]


class RunFolder:
    """The working folder of a run, beside its output; moved or removed when whole.

    Every file in it carries a digest, so that a changed byte is refused by the file's name.
    """

    def __init__(self, out: Path) -> None:
        """Name the folder; nothing is created yet.

        Raises InputError where `out` is taken, another run is at work, or the folder holds what no run made.
        """
        self.out = out
        self.path = out.with_name(out.name + ".partial")
        self._lock = FolderLock(self.path)
        self._opened = False
        self._written = time.monotonic()
        try:
            self._clear_finished()
            check_output(out, may_be_empty=True)
        except BaseException:
            self._lock.release()
            raise

    @property
    def model(self) -> Path:
        """Where the finished model is put together."""
        return self.path / _MODEL

    def new_model(self) -> Path:
        """That folder, empty: nothing that a killed run left half written gets into the model."""
        with storage_errors(self.path):
            if self.model.exists():
                shutil.rmtree(self.model)
            self.model.mkdir()
        return self.model

    def open(self, plan: dict[str, Any], *, resume: bool) -> int:
        """Start or resume, and return how many blocks are finished.

        Raises InputError when an unfinished run is there and resume is off, or when its plan is another or its
        blocks are damaged.
        """
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._take()
        if self._begun():
            if not resume:
                raise InputError(
                    f"{str(self.path)!r} holds an unfinished run: add --resume to go on, or remove it to start again"
                )
            self._check_plan(plan)
            self._opened = True
            return self._count()
        self._opened = True
        with storage_errors(self.path):
            write_sealed(self.path / _PLAN, plan)
        return 0

    def planned(self, key: str) -> Any:
        """What an unfinished run's plan says, or None without one."""
        return read_sealed(self.path / _PLAN).get(key) if self._begun() else None

    def give_up(self) -> None:
        """Remove the folder of a run that has failed, unless work is in it that a resumed run can use.

        A folder that this run did not open is left as it is.
        """
        if self._opened and self.path.is_dir():
            # A plan alone is no work: hidden files are those that a kill left half written.
            parts = [part for part in self.path.iterdir() if part.name not in (_PLAN, _MODEL) and part.name[0] != "."]
            if not any(part.is_file() or any(part.iterdir()) for part in parts):
                self._remove()
        self._opened = False
        self._lock.release()

    def discard(self) -> None:
        """Remove a run that another process finishes, if it was begun."""
        if self.path.is_dir():
            with storage_errors(self.path):
                self._remove()
        self._opened = False
        self._lock.release()

    def save_document(self, name: str, data: dict[str, Any]) -> None:
        """Write plain data under a name."""
        with storage_errors(self.path):
            write_sealed(self.path / f"{name}.json", data)

    def load_document(self, name: str) -> dict[str, Any] | None:
        """What was written under a name, or None. Raises InputError when it is damaged."""
        path = self.path / f"{name}.json"
        return read_sealed(path) if path.exists() else None

    def save_block(self, index: int, block: FinishedBlock) -> None:
        """Write a finished block under its final name only when whole."""
        tensors = {f"weight:{name}": tensor for name, tensor in block.weights.items()}
        tensors |= {f"mask:{name}": tensor for name, tensor in block.masks.items()}
        tensors |= {f"bias:{name}": tensor for name, tensor in block.biases.items()}
        self._save(self._block(index), tensors, block.reports)

    def load_block(self, index: int) -> FinishedBlock:
        """Read a finished block. Raises InputError when its file is damaged."""
        tensors, reports = load_sealed(self._block(index), self.path)
        parts = {
            kind: {key.removeprefix(kind): value for key, value in tensors.items() if key.startswith(kind)}
            for kind in ("weight:", "mask:", "bias:")
        }
        return FinishedBlock(parts["weight:"], parts["mask:"], reports, parts["bias:"])

    def save_hidden(self, index: int, hidden: list[Tensor]) -> None:
        """Write the inputs of block `index`."""
        self._written = time.monotonic()
        self._save(self._hidden(index), {f"{i:06d}": tensor for i, tensor in enumerate(hidden)})

    def last_hidden(self, most: int) -> int:
        """The last block, up to this number, whose inputs are written; 0 where none are."""
        return next((index for index in range(most, 0, -1) if self._hidden(index).exists()), 0)

    def hidden_age(self) -> float:
        """Seconds since inputs of a block were written, or since this run opened the folder."""
        return time.monotonic() - self._written

    def drop_hidden(self, index: int) -> None:
        """Forget the inputs of a block that is finished."""
        self._hidden(index).unlink(missing_ok=True)

    def load_hidden(self, index: int) -> list[Tensor]:
        """Read the inputs of block `index`. Raises InputError when they are damaged."""
        tensors, _ = load_sealed(self._hidden(index), self.path)
        return [tensors[key] for key in sorted(tensors)]

    def save_gradients(self, layers: Mapping[str, tuple[dict[str, Tensor], dict[str, int]]]) -> None:
        """Write what backward passes gave every layer: sums by kind, and what each is divided by."""
        for name, (sums, counts) in layers.items():
            self._save(self._gradient(name), sums, counts)
        self.save_document("gradients", {"layers": list(layers)})

    def has_gradients(self) -> bool:
        """Whether all gradients were written."""
        return (self.path / "gradients.json").exists()

    def load_gradients(self, layer: str) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Read what backward passes gave one layer. Raises InputError when the file is damaged."""
        return load_sealed(self._gradient(layer), self.path)

    def save_start(self, tensors: dict[str, Tensor], told: Any = None) -> None:
        """Write what a run starts from and a resumed one must not compute again, and plain data with it."""
        self._save(self.path / _START, tensors, told)

    def load_start(self) -> tuple[dict[str, Tensor], Any] | None:
        """What `save_start` wrote, or None before it. Raises InputError when it is damaged."""
        path = self.path / _START
        return load_sealed(path, self.path) if path.exists() else None

    def save_state(self, tensors: dict[str, Tensor], log: dict[str, list[float]]) -> None:
        """Write a training state and the named numbers of every step so far."""
        self._save(self._state, tensors, log)

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, list[float]]] | None:
        """The last training state, or None before the first. Raises InputError when it is damaged."""
        return load_sealed(self._state, self.path) if self._state.exists() else None

    def finish(self) -> None:
        """Move the finished model to its name and remove everything else; a restart does what a kill left over."""
        with storage_errors(self.out):
            write_sealed(self.path / _FINISHED, {"out": self.out.name})
            self._move_model()
            self._remove()
        self._opened = False
        self._lock.release()

    def _clear_finished(self) -> None:
        """Do what a run that was killed while it finished had left to do."""
        with storage_errors(self.out):
            if not self.path.is_dir():
                if os.path.lexists(self.path):
                    raise InputError(self._in_the_way())
                return
            self._take()
            if not any(self.path.iterdir()):
                self.path.rmdir()  # killed before anything was in it, or after everything was out
                self._lock.release()
                return
            self._check_ours()
            if (self.path / _FINISHED).exists():
                self._move_model()
                if not self.model.exists():
                    self._remove()
                    self._lock.release()

    def _move_model(self) -> None:
        """Give the finished model its name, unless something has it."""
        if not self.model.exists():
            return
        if self.out.is_dir() and not any(self.out.iterdir()):
            self.out.rmdir()
        if not self.out.exists():
            self.model.replace(self.out)

    def _remove(self) -> None:
        """Remove what a run makes, its plan and marker last: they prove whose the rest is. Anything else stays."""
        parts = [part for part in self.path.iterdir() if _made_by_a_run(part)]
        for part in sorted(parts, key=lambda part: (part.name == _FINISHED, part.name == _PLAN)):
            if part.is_dir() and _foreign(part) is None:
                shutil.rmtree(part)
            elif part.is_file():
                part.unlink()
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _take(self) -> None:
        if not self._lock.take():
            raise InputError(
                f"another run is at work in {str(self.path)!r}: wait until it has ended, or name another --out"
            )

    def _check_ours(self) -> None:
        """Raise InputError unless a run's own plan or marker is here, and nothing that no run makes."""
        proofs = [self.path / name for name in (_PLAN, _FINISHED) if (self.path / name).exists()]
        for proof in proofs:
            try:
                read_sealed(proof)
            except InputError as error:
                raise InputError(
                    f"{error}; so no run is known to have left {str(self.path)!r}: remove it or name another --out"
                ) from error
        begun = (part.name.startswith(f".{_PLAN}.") and _made_by_a_run(part) for part in self.path.iterdir())
        if self.path.is_symlink() or not (proofs or all(begun)):
            raise InputError(self._in_the_way())
        strange = _foreign(self.path)
        if strange is not None:
            raise InputError(f"{str(strange)!r} was made by no run: move it elsewhere, or name another --out")

    def _in_the_way(self) -> str:
        return f"{str(self.path)!r} is in the way and no run left it: remove it or name another --out"

    def _begun(self) -> bool:
        return (self.path / _PLAN).exists()

    def _save(self, path: Path, tensors: dict[str, Tensor], extra: Any = None) -> None:
        with storage_errors(self.path):
            path.parent.mkdir(exist_ok=True)
            save_sealed(path, tensors, extra)

    def _block(self, index: int) -> Path:
        return self.path / "blocks" / f"{index:05d}.safetensors"

    def _hidden(self, index: int) -> Path:
        return self.path / f"hidden-{index:05d}.safetensors"

    def _gradient(self, layer: str) -> Path:
        return self.path / "gradients" / f"{layer}.safetensors"

    @property
    def _state(self) -> Path:
        return self.path / "training.safetensors"

    def _count(self) -> int:
        """Finished blocks; each is read, so that damage shows before any more work."""
        count = 0
        while self._block(count).exists():
            load_sealed(self._block(count), self.path)
            count += 1
        return count

    def _check_plan(self, plan: dict[str, Any]) -> None:
        before = read_sealed(self.path / _PLAN)
        now = json.loads(json.dumps(plan))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise InputError(
                    f"{str(self.path)!r} was started with another {key} ({before.get(key)!r}, now {now.get(key)!r}): "
                    "repeat the first command, or remove the folder to start again"
                )


def _made_by_a_run(part: Path) -> bool:
    """Whether the name in a run's folder, and the kind of what has it, are those that a run makes."""
    if part.is_symlink():
        return False
    if part.is_dir():
        return part.name in (*_INSIDE, _MODEL)
    return _is_named(part, _FILES)


def _is_named(part: Path, names: re.Pattern[str]) -> bool:
    unfinished = _UNFINISHED.fullmatch(part.name)
    name = part.name if unfinished is None else unfinished.group(1)
    return bool(names.fullmatch(part.name) or names.fullmatch(name))


def _foreign(folder: Path) -> Path | None:
    """The first file in a run's folder, or in one of its folders, that no run makes; models hold files of any name."""
    if folder.name == _MODEL:
        return None
    for part in sorted(folder.iterdir()):
        inside = _INSIDE.get(folder.name)
        if inside is None and not _made_by_a_run(part):
            return part
        if inside is not None and (part.is_symlink() or not part.is_file() or not _is_named(part, inside)):
            return part
        if part.is_dir() and (found := _foreign(part)) is not None:
            return found
    return None
