"""learn_masks(model, text, out, task): learn which n of every m weights stay, and save the model under its masks."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.adapt.positions import check_ids
from secateur.calibrate.data import Calibration
from secateur.calibrate.stream import StreamSettings
from secateur.core.errors import InputError
from secateur.core.files import storage_errors, write_document
from secateur.core.mask import Masks
from secateur.core.shapes import TokenIds
from secateur.machine.device import half_pays, pick_device
from secateur.machine.memory import peak_memory_mb
from secateur.machine.ranks import processes
from secateur.masks.blockwise import BlockTask, learn_blocks
from secateur.masks.candidates import Candidates
from secateur.masks.maskllm import LearnedMasks, MaskSettings
from secateur.masks.packed import MaskFile
from secateur.masks.prior import Room, check_prior, find_prior
from secateur.masks.whole import Look, learn_whole
from secateur.masks.write import refitted, write_masked
from secateur.registry import check_name
from secateur.report.card import write_card
from secateur.run.result import versions
from secateur.storage.open_model import open_model
from secateur.storage.run_folder import RunFolder
from secateur.storage.shards import Checkpoint
from secateur.storage.source import Source, check_language, load_tokenizer, open_whole, read_config, resolve

__all__ = ["MaskTask", "learn_masks"]

_BATCHES = 32  # of windows that blocks are learned on, one of ten of them held out
_REFIT_TOKENS = 16_384
Told = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class MaskTask:
    """What learning masks starts from, and how it goes about it.

    settings: patterns, steps, rates. prior: a method such as sparsegpt, a folder with masks.safetensors, or none.
    scope: model learns all masks together, block one block after the other with little memory. refit: steps of
    conjugate gradients that fit the weights to the learned masks; 0 leaves them as they were. held: windows that
    judge the masks. looks: how often. device: cpu, cuda, ... or auto. half: whether products are taken in bfloat16:
    less.
    """

    settings: MaskSettings = field(default_factory=MaskSettings)
    prior: str = "sparsegpt"
    scope: str = "model"
    refit: int = 0
    held: int = 16
    looks: int = 10
    device: str = "auto"
    half: str = "auto"
    text_column: str | None = None

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        check_name("scope", self.scope, ("model", "block"))
        check_name("half", self.half, ("auto", "yes", "no"))
        if min(self.held, self.looks) < 1 or self.refit < 0:
            raise InputError("masks need held and looks of at least 1, and refit of at least 0")


def learn_masks(
    model: str | Path | Source,
    text: str,
    out: str | Path,
    task: MaskTask | None = None,
    *,
    resume: bool = False,
    progress: Told | None = None,
) -> dict[str, Any]:
    """Learn the n:m masks of a language model on a text, and save it under them in the folder `out`.

    Weights stay as they are but for their zeros, unless they are refitted. `resume` goes on from the last saved state
    with the same bits. Returns what result.json holds: held-out loss (nats a token) and masks at every look, or the
    error of every block. Raises a SecateurError with one sentence on anything that cannot be done.
    """
    with processes() as (rank, _):
        folder = RunFolder(Path(out) if rank == 0 else Path(f"{out}.rank{rank}"))
        try:
            run = _Run(resolve(model), task or MaskTask(), text, folder, progress or (lambda done, steps, word: None))
            result = run.go({"model": str(model), "text": text, "out": str(out)}, resume=resume)
            if rank:
                folder.discard()
            else:
                folder.finish()
            return result
        except BaseException:
            folder.give_up()
            raise


class _Run:
    """One run, from a text to a folder."""

    def __init__(self, source: Source, task: MaskTask, text: str, folder: RunFolder, told: Told) -> None:
        self.source, self.task, self.folder, self.told = source, task, folder, told
        self.started = time.perf_counter()
        settings, config = task.settings, read_config(source)
        self.opened = open_model(source)
        self.opened.checkpoint.check_finite()
        count = settings.steps * settings.batch if task.scope == "model" else settings.batch * _BATCHES
        self.data = Calibration(
            source=text, samples=count, length=settings.length, seed=settings.seed, text_column=task.text_column
        )
        self.ids, self.held = self.data.fitted(config).draw_apart(load_tokenizer(source), task.held, share=0.1)
        for ids in (self.ids, self.held):
            check_ids(ids, config, f"text {text!r}")
        self.device = pick_device(task.device)
        if task.scope == "block" and self.device.type != "cpu":
            self.device = torch.device("cpu")  # one block at a time is for machines without room
        half = half_pays(self.device) if task.half == "auto" else task.half == "yes"
        planned = folder.planned("half")
        self.half = half if planned is None else bool(planned)  # a resumed run keeps what the first measured

    def plan(self) -> dict[str, Any]:
        """What must be the same for a resumed run to give the same bits."""
        return {
            "masks of": Checkpoint(self.source.folder).digests(),
            "text ids": hashlib.sha256(self.ids.numpy().tobytes()).hexdigest(),
            "half": self.half,
            "threads": torch.get_num_threads(),
            "versions": versions(),
            **{key: value for key, value in asdict(self.task).items() if key not in ("refit", "half", "device")},
        }

    def go(self, named: dict[str, Any], *, resume: bool) -> dict[str, Any]:
        """Learn, write, and tell."""
        done = self.folder.open(self.plan(), resume=resume)
        stream = StreamSettings()
        prior = self._prior()
        found: dict[str, Any] = {**named, "task": asdict(self.task), "half": self.half, "device": str(self.device)}
        if self.task.scope == "block":
            task = BlockTask(self.task.settings, prior, stream, self.half)
            keep, blocks = learn_blocks(
                self.opened, task, self.ids, self.folder, done, lambda at, of: self.told(at, of, "blocks")
            )
            found["blocks"] = blocks
        else:
            keep, looks, losses = self._whole(prior)
            found |= {"looks": [vars(look) for look in looks], "losses": losses}
        weights = {}
        if self.task.refit:
            self.told(0, 1, "refit")
            weights = refitted(self.opened, keep, self._calibration(), stream, self.task.refit)
        write_masked(self.opened, self.folder, keep, weights)
        kept, whole = (sum(int(part) for part in parts) for parts in zip(*_counts(keep), strict=True))
        found |= {
            "sparsity": 1 - kept / whole,
            "seconds": time.perf_counter() - self.started,
            "peak_memory_mb": peak_memory_mb(),
            "versions": versions(),
        }
        with storage_errors(self.folder.out):
            write_document(self.folder.model / "result.json", found)
            write_card(self.folder.model, self.folder.out.name, self.source.folder)
        return found

    def _whole(self, prior: dict[str, Tensor] | None) -> tuple[dict[str, Tensor], list[Look], list[float]]:
        structure = open_whole(self.source, torch.float32)
        check_language(structure.model, "masks are learned on next tokens of text: use another method")
        cast(nn.Module, structure.model).to(self.device)
        masks = LearnedMasks(structure.layers, self.task.settings, prior)

        def told(step: int, steps: int, look: Look | None) -> None:
            words = "steps" if look is None else f"held-out loss {look.held:.3f}, {look.changed:.1%} of masks changed"
            self.told(step, steps, words)

        data, run = (self.ids, self.held), (self.task.looks, self.half)
        return learn_whole(structure, masks, data, self.folder, run, told)

    def _prior(self) -> dict[str, Tensor] | None:
        """The prior's masks; a resumed run reads those that the first found."""
        candidates, saved = Candidates(self.task.settings.pattern), self.folder.load_start()
        if saved is None:
            keep = find_prior(self.task.prior, self.source, candidates.pattern, self.data, self._room())
            found: dict[str, Tensor] = {}
            if keep is not None:
                layers = self.opened.structure.layers
                check_prior(keep, layers, self.task.prior)
                packed = MaskFile.of(Masks({layer.name: keep[layer.name] for layer in layers}), candidates.pattern, {})
                found = dict(packed.numbers)
            self.folder.save_start(found)
        else:
            found = saved[0]
        return {name: candidates.keep(own.long()) for name, own in found.items()} or None

    def _room(self) -> Room:
        return Room(self.folder.out, lambda done, blocks: self.told(done, blocks, "prior"))

    def _calibration(self) -> TokenIds:
        """Windows that weights are refitted on: those of the text, 16,384 tokens or what there is."""
        return self.ids[: max(1, _REFIT_TOKENS // self.ids.shape[1])]


def _counts(keep: dict[str, Tensor]) -> list[tuple[int, int]]:
    return [(int(mask.sum()), mask.numel()) for mask in keep.values()]
