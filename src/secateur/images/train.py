"""train_network(name, out, settings): learn widths and weights together, or weights alone; resumable."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.convnet.costs import costs
from secateur.convnet.structure import ChannelStructure, describe_channels
from secateur.core.cut import Cut
from secateur.core.errors import DisagreementError, InputError
from secateur.core.files import write_document
from secateur.core.seed import generator
from secateur.images.batches import Batches, held_apart
from secateur.images.pictures import Pictures, pictures_for
from secateur.images.prune import top1
from secateur.machine.memory import freed_memory_kept
from secateur.machine.ranks import processes
from secateur.report.card import write_card
from secateur.run.result import versions
from secateur.storage.network import Network, Removal, open_network, save_network
from secateur.storage.run_folder import RunFolder
from secateur.storage.sealed import tensor_digest
from secateur.train.local import Parts
from secateur.train.loop import Log, Loop
from secateur.train.objective import Classes
from secateur.train.parametrizations import keep_zeros_
from secateur.train.reconstruct import Reconstruction
from secateur.train.s2h import SoftToHard, SoftToHardSettings, weight_descent

__all__ = ["NetworkTraining", "train_network"]

_BATCH = 250  # pictures of a forward pass that measures
_EVERY = 200  # steps between saved states, and at the end of an epoch
_TOLERANCE = 1e-4
_RATES = {"s2h": 0.1, "finetune": 0.1, "reconstruct": 0.001}
_DRAWN = 512  # pictures of reconstruct
_SETTLING = 20  # batches that measure batch norms at the end


@dataclass(frozen=True, kw_only=True)
class NetworkTraining:
    """How a network is trained.

    method: s2h learns widths and weights together, finetune weights alone, and reconstruct those of pruned parts, each
    by what a teacher's part puts out. epochs: of the pictures, in batches of `batch`. rate: peak of a cosine schedule
    with a tenth of warm-up; 0.1, or 0.001 of reconstruct, where none is given. decay: of weights of matrices; not of
    reconstruct. held: share of the pictures that does not train and is measured after every epoch.
    samples: pictures that are drawn to train on; where nothing is said all, or 512 of reconstruct, which holds what a
    part reads for all of them. widths: settings of s2h.
    teaching: of finetune, the teacher's share of the loss; with 1, pictures need no classes.
    norms: of finetune, whether the statistics of batch norms follow the pictures; without, few pictures do no harm.
    Zeros in the weights of convolutions and linear layers stay zeros in finetune and reconstruct.
    """

    method: str = "s2h"
    epochs: int = 20
    batch: int = 64
    rate: float | None = None
    decay: float = 5e-4
    held: float = 0.05
    seed: int = 0
    samples: int | None = None
    teaching: float = 0.5
    norms: bool = True
    widths: SoftToHardSettings = field(default_factory=SoftToHardSettings)

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        if self.method not in _RATES:
            raise InputError(f"method {self.method!r} trains nothing: take {', '.join(_RATES)}")
        if min(self.epochs, self.batch) < 1 or not self.peak > 0 or not self.decay >= 0 or not 0 < self.held < 1:
            raise InputError("training needs epochs and batch of at least 1, a rate above 0 and held in 0..1")
        if self.samples is not None and self.samples < 2:
            raise InputError("training needs two pictures at least")
        if not 0 <= self.teaching <= 1:
            raise InputError("training needs teaching in 0..1")

    @property
    def peak(self) -> float:
        """The highest rate."""
        return _RATES[self.method] if self.rate is None else self.rate

    @property
    def limit(self) -> int | None:
        """How many pictures are drawn, or None for all."""
        return _DRAWN if self.samples is None and self.method == "reconstruct" else self.samples


def train_network(
    name: str | Path | Network,
    out: str | Path,
    training: NetworkTraining | None = None,
    *,
    images: str | Path,
    test: str | Path | None = None,
    teacher: Network | None = None,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train a network on pictures with classes and write the folder `out`; return what result.json holds.

    `resume` goes on from the last saved state with the same bits. Under torchrun every process takes its
    share of each batch, gradients are averaged, and the first process writes. Raises a SecateurError with
    one sentence on anything that cannot be done.
    """
    training = training or NetworkTraining()
    network = name if isinstance(name, Network) else open_network(name)
    with freed_memory_kept(), processes() as (rank, ranks):
        folder = RunFolder(Path(out) if rank == 0 else Path(f"{out}.rank{rank}"))
        try:
            drawn = pictures_for(network, images, limit=training.limit, seed=training.seed)
            pictures = _taught(drawn, training, teacher)
            run = _Run(network, training, pictures, teacher, (rank, ranks))
            folder.open(run.plan(), resume=resume)
            run.go(folder, progress or (lambda done, steps: None))
            tested = None if test is None else pictures_for(network, test)
            return run.finish(folder, tested, {"images": str(images), "out": str(out)})
        except BaseException:
            folder.give_up()
            raise


@torch.no_grad()
def _taught(pictures: Pictures, training: NetworkTraining, teacher: Network | None) -> Pictures:
    """Pictures with the teacher's classes, where it alone teaches and they have none."""
    if training.method == "reconstruct" and teacher is None:
        raise InputError("reconstruct needs the dense network: give --teacher")
    alone = training.method == "reconstruct" or (training.method == "finetune" and training.teaching == 1)
    if pictures.classes is not None or teacher is None or not alone:
        return pictures
    said = [teacher.model.eval()(part).argmax(dim=1) for part in pictures.pixels.split(_BATCH)]
    return pictures._replace(classes=torch.cat(said))


class _Run:
    """One training, from pictures to a folder."""

    def __init__(
        self,
        network: Network,
        training: NetworkTraining,
        pictures: Pictures,
        teacher: Network | None,
        place: tuple[int, int],
    ) -> None:
        self.network, self.training, self.started = network, training, time.perf_counter()
        self.first = place[0] == 0
        known, self.held = held_apart(pictures, training.held, training.seed)
        self.batches = Batches(
            known, training.batch, training.epochs, seed=training.seed, rank=place[0], ranks=place[1]
        )
        self.digest = tensor_digest({"pixels": pictures.pixels})
        self.start = _digest(network)
        self.taught_by = None if teacher is None else _digest(teacher)
        self.history: list[list[float]] = []
        self.structure: ChannelStructure | None = None
        self.learner: SoftToHard | None = None
        self.parts: Parts | None = None
        self.told: dict[str, Any] = {}  # of result.json
        if training.method == "s2h":
            self.structure = describe_channels(network.model, network.example)
            self.before = costs(self.structure)
            self.learner = SoftToHard(self.structure, training.widths, len(self.batches), self.batches.epoch)
            self.loop = self.learner.loop(training.peak, training.decay)
        elif training.method == "reconstruct" and teacher is not None:
            own = known.pixels[: len(known.pixels) // place[1] * place[1]][place[0] :: place[1]]
            self.parts = Parts(network.model, teacher.model, own, training.batch)
        else:
            guide = None if teacher is None else teacher.model
            objective = Classes(network.model, guide, training.teaching, norms=training.norms)
            parameters = list(network.model.parameters())
            keep_zeros_(network.model)
            descent = weight_descent(parameters, training.peak, len(self.batches), training.decay)
            self.loop = Loop(parameters, objective, [descent], others={"objective": objective}, clip=None)

    def plan(self) -> dict[str, Any]:
        """What must be the same for a resumed run to give the same bits."""
        settings = {**asdict(self.training), "threads": torch.get_num_threads(), "versions": versions()}
        return {
            "network": self.start,
            "source": self.network.source,
            "teacher": self.taught_by,
            "pictures": self.digest,
            **settings,
        }

    def go(self, folder: RunFolder, progress: Callable[[int, int], None]) -> None:
        """Everything that is not done; what is held apart is measured after each epoch, or part."""
        saved = folder.load_state()
        if self.parts is not None:
            self._train_parts(self.parts, folder, saved, progress)
            return
        if saved is not None:
            tensors, log = saved
            self.history = tensors.pop("history:rows").tolist()
            self.loop.load_state(tensors, log)
        while len(self.history) < self.training.epochs:
            until = (len(self.history) + 1) * self.batches.epoch
            while len(self.loop.losses) < until:
                progress(len(self.loop.losses), len(self.batches))
                number = len(self.loop.losses)
                with _stream(self.training.seed, number):  # dropout draws from torch's own stream
                    self.loop.step(self.batches[number])
                if (number + 1) % _EVERY == 0 and number + 1 < until:
                    self._save(folder)
            self.history.append(self._measured())
            self._save(folder)
        progress(len(self.batches), len(self.batches))

    def _train_parts(
        self,
        parts: Parts,
        folder: RunFolder,
        saved: tuple[dict[str, Tensor], Log] | None,
        progress: Callable[[int, int], None],
    ) -> None:
        tensors, log = saved or ({}, {"before": [], "after": []})
        with torch.no_grad():
            for name, own in parts.parameters(len(log["after"])).items():
                own.copy_(tensors[name])
        settings = Reconstruction(steps=len(self.batches), rate=self.training.peak)
        for number in range(len(log["after"]), len(parts.names)):
            progress(number, len(parts.names))
            before, after = parts.train_(number, settings, self.training.seed)
            log = {"before": [*log["before"], before], "after": [*log["after"], after]}
            folder.save_state({name: own.detach() for name, own in parts.parameters(number + 1).items()}, log)
        progress(len(parts.names), len(parts.names))
        accuracy = top1(self.network.model, self.held)
        self.history = [[sum(log["after"]) / len(parts.names), accuracy, accuracy, 1.0]]
        self.told = {"parts": dict(zip(parts.names, zip(log["before"], log["after"], strict=True), strict=True))}

    def _save(self, folder: RunFolder) -> None:
        table = torch.tensor(self.history, dtype=torch.float64)
        folder.save_state(self.loop.state() | {"history:rows": table}, self.loop.log)

    @torch.no_grad()
    def _measured(self) -> list[float]:
        """Mean loss of the epoch, accuracy of the soft and the hard network, share of MACs, widths."""
        loss = sum(self.loop.losses[-self.batches.epoch :]) / self.batches.epoch
        if self.learner is None:
            accuracy = top1(self.network.model, self.held)
            return [loss, accuracy, accuracy, 1.0]
        learner, masks = self.learner, self.learner.masks
        learner.model.eval()
        widths = learner.widths()
        pair = ((masks.keeps(), "soft"), (masks.kept(widths), "hard"))
        soft, hard = (_accuracy(learner, self.held, scales, kind) for scales, kind in pair)
        return [loss, soft, hard, masks.macs(widths) / masks.dense, *map(float, widths.values())]

    def finish(self, folder: RunFolder, tested: Pictures | None, told: dict[str, Any]) -> dict[str, Any]:
        """Cut out the hard network, check it, and write the folder."""
        names = ("loss", "soft", "hard", "macs")
        result: dict[str, Any] = {
            **told,
            **self.told,
            "network": self.network.source,
            "training": asdict(self.training),
            "history": [dict(zip(names, row, strict=False)) for row in self.history],
            "top1": None,
        }
        network, cut = self.network, None
        if self.learner is not None and self.structure is not None:
            network, cut = self._cut_out(result)
        network.model.eval()
        if tested is not None:
            result |= {"top1": top1(network.model, tested), "tested": len(tested.pixels)}
        result["seconds"] = time.perf_counter() - self.started
        if self.first:
            target = folder.new_model()
            save_network(network, target)
            if cut is not None:
                cut.save(target / "cut.json")
            write_document(target / "result.json", result)
            write_card(target, folder.out.name)
            folder.finish()
        else:
            folder.discard()
        return result

    @torch.no_grad()
    def _cut_out(self, result: dict[str, Any]) -> tuple[Network, Cut]:
        learner, structure = self.learner, self.structure
        assert learner is not None and structure is not None
        cut = learner.cut()
        learner.settle_norms(self.batches[: min(_SETTLING, self.batches.epoch)])
        hard = learner.run(self.held.pixels[:8], learner.masks.kept(learner.widths()), "hard")
        axes = {name: layer.axis for name, layer in structure.layers.items() if layer.axis is not None}
        removal = Removal(structure.slices(cut), axes, structure.attributes(cut))
        widths = list(learner.masks.sites)
        after = costs(structure, {name: len(kept) for name, kept in cut.kept.items()})
        learner.finish()
        far = float((learner.model(self.held.pixels[:8]) - hard).abs().max() / hard.abs().max().clamp_min(1e-12))
        if not far <= _TOLERANCE:
            raise DisagreementError(f"the network that was cut out differs from the hard one by {far:.2g}")
        result |= {
            "macs": [self.before.macs, after.macs],
            "params": [self.before.params, after.params],
            "widths": {name: [row[4 + place] for row in self.history] for place, name in enumerate(widths)},
        }
        return self.network.without(removal), cut


def _digest(network: Network) -> str:
    return tensor_digest({name: value.contiguous() for name, value in network.model.state_dict().items()})


def _accuracy(learner: SoftToHard, pictures: Pictures, scales: Any, kind: str) -> float:
    right = 0
    assert pictures.classes is not None
    for pixels, classes in zip(pictures.pixels.split(_BATCH), pictures.classes.split(_BATCH), strict=True):
        right += int((learner.run(pixels, scales, kind).argmax(dim=1) == classes).sum())
    return right / len(pictures.pixels)


@contextmanager
def _stream(seed: int, number: int) -> Iterator[None]:
    """Torch's own random stream fixed by the number of a step, and as it was afterwards."""
    with torch.random.fork_rng(devices=()):
        torch.set_rng_state(generator(seed, "step", number).get_state())
        yield
