"""Workers on one Optuna study: it numbers trials and keeps their fitness; candidates follow from the numbers."""

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from secateur.adapt.positions import check_ids
from secateur.allocate.dsa import DSA
from secateur.allocate.expression import Expression
from secateur.calibrate.data import Calibration
from secateur.core.allocation import Allocation
from secateur.core.errors import InputError, RatioError
from secateur.core.files import storage_errors
from secateur.core.pattern import check_ratio
from secateur.core.shapes import TokenIds
from secateur.run.recipe import Recipe
from secateur.search.evolution import Evolution, Expressions, Ratios
from secateur.search.trial import Trials, prepare
from secateur.storage.sealed import tensor_digest
from secateur.storage.shards import Checkpoint
from secateur.storage.source import Source, load_tokenizer, read_config, resolve

__all__ = ["Found", "Search", "search_ratios"]

_POLL = 0.1  # seconds between looks at what other workers have finished
_CLAIMING = 30.0  # seconds a trial may stand without its owner's name
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, how long, and on what.

    space: "expressions" (DSA) or "ratios" of blocks. eval_samples: samples that share no token with those of
    the calibration, on which candidates are judged. storage: an SQLAlchemy URL, or journal:PATH; None is
    a journal in the search's folder. workers: processes; more may join from other machines by URL.
    """

    ratio: float
    space: str = "expressions"
    trials: int = 64
    population: int = 16
    workers: int = 1
    storage: str | None = None
    calibration: Calibration = field(default_factory=Calibration)
    eval_samples: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be searched."""
        check_ratio(self.ratio)
        if self.space not in ("expressions", "ratios"):
            raise InputError(f"search: space {self.space!r} should be expressions or ratios")
        if self.trials < 1 or self.workers < 1 or self.eval_samples < 1 or self.population < 1:
            raise InputError("search: trials, population, workers and eval_samples should be at least 1")


class Found(NamedTuple):
    """The best candidate, in words too, its ratios, fitness beside uniform's (nats a token), every trial in order."""

    candidate: str
    words: str
    allocation: Allocation
    fitness: float
    uniform: float
    history: list[tuple[float, str]]


class _Job(NamedTuple):
    """What every worker is told."""

    source: Source
    folder: Path
    settings: Search
    ids: TokenIds


def search_ratios(
    model: str | Path | Source, settings: Search, folder: Path, *, progress: Progress | None = None
) -> Found:
    """Search ratios for Wanda's masks, with the study and cached statistics in `folder`; an existing study goes on.

    The winner depends on the seed and sizes alone, not on the workers or on interruptions.
    Raises InputError when the study was begun with other settings.
    """
    source = resolve(model)
    data = settings.calibration.fitted(read_config(source))
    ids, judged = data.draw_apart(load_tokenizer(source), settings.eval_samples)
    check_ids(judged, read_config(source), "evaluation samples")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    job = _Job(source, folder, settings, judged)
    _check_plan(_study(job), job, ids)
    recipe = Recipe(method="wanda", ratio=settings.ratio, calibration=data)
    prepare(source, recipe, ids, folder / "ranks", progress)
    before = torch.get_num_threads()
    threads = max(1, before // settings.workers)
    spawn = multiprocessing.get_context("spawn")
    others = [spawn.Process(target=_help, args=(job, threads), daemon=True) for _ in range(settings.workers - 1)]
    for other in others:
        other.start()
    torch.set_num_threads(threads)
    try:
        return _Worker(job, progress or (lambda done, total: None)).lead()
    except BaseException:
        for other in others:
            other.terminate()
        raise
    finally:
        torch.set_num_threads(before)
        for other in others:
            other.join()


def _help(job: _Job, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader ends its helpers
    torch.set_num_threads(threads)
    _Worker(job, lambda done, total: None).run()


class _Worker:
    """Claims numbers, breeds their candidates, tells their fitness."""

    def __init__(self, job: _Job, progress: Progress) -> None:
        self.study = _study(job)
        self.settings = job.settings
        batch = max(1, 2048 // job.ids.shape[1])
        self.trials = Trials(job.source, job.folder / "ranks", job.ids, batch)
        self.problem = self.trials.problem
        spaces: Mapping[str, Any] = {
            "expressions": Expressions(),
            "ratios": Ratios(count=len(self.problem.blocks)),
        }
        parents = max(2, job.settings.population // 2)
        self.evolution = Evolution(
            space=spaces[job.settings.space],
            trials=job.settings.trials,
            population=job.settings.population,
            parents=parents,
            seed=job.settings.seed,
        )
        self.candidates: list[Any] = []
        self.progress = progress
        self.leads = False

    def lead(self) -> Found:
        """Take part, take over what killed workers left, and wait for the rest."""
        self.leads = True
        self.run()
        self._wait(self.settings.trials)
        fitness = self._fitness()
        candidates = [self._candidate(number) for number in range(self.settings.trials)]
        best = min(range(len(candidates)), key=lambda number: (fitness[number], number))
        if fitness[best] == float("inf"):
            raise RatioError(
                f"search: none of {len(candidates)} candidates gives ratios that are finite and differ: "
                "ask for more trials"
            )
        uniform = self.trials.fitness(dict.fromkeys(self.problem.blocks, self.settings.ratio))
        history = [(fitness[number], self._words(candidate)) for number, candidate in enumerate(candidates)]
        winner, words = candidates[best], self._words(candidates[best])
        return Found(
            words,
            winner.in_words() if isinstance(winner, Expression) else f"blocks' ratios moved by {words}",
            self._ratios(winner),
            fitness[best],
            uniform,
            history,
        )

    def run(self) -> None:
        """Evaluate until every number is claimed."""
        self._take_over(self.settings.trials)
        while len(self.study.get_trials(deepcopy=False)) < self.settings.trials:
            trial = self.study.ask()
            trial.set_user_attr("owner", _me())
            if trial.number < self.settings.trials:  # a number too many waits for a longer search
                self._evaluate(trial.number)

    def _evaluate(self, number: int) -> None:
        self._wait(number - number % self.settings.population)
        try:
            value = round(self.trials.fitness(self._ratios(self._candidate(number)).ratios), 6)
        except RatioError:
            value = float("inf")
        self.study.tell(number, value, skip_if_finished=True)
        self.progress(len(self._fitness()), self.settings.trials)

    def _candidate(self, number: int) -> Any:
        """Bred when its generation is first asked for; every earlier one has been told."""
        while len(self.candidates) <= number:
            self.candidates += self.evolution.generation(self.candidates, self._fitness())
        return self.candidates[number]

    def _ratios(self, candidate: Any) -> Allocation:
        ratio, names = self.settings.ratio, self.problem.blocks
        if isinstance(candidate, Expression):
            reduced = self.trials.reduced(candidate)
            summaries = {name: candidate.finish(value) for name, value in reduced.items()}
            if len(set(summaries.values())) == 1 < len(summaries):
                raise RatioError(f"search: {candidate} is one number for every block")  # a vote for uniform, not a find
            return DSA(expression=str(candidate)).allocate(self.problem._replace(summaries=summaries), ratio)
        moved = {name: min(max(ratio + move, 0.0), 1.0) for name, move in zip(names, candidate, strict=True)}
        return Allocation(moved).balanced(self.problem.sizes, ratio)

    def _words(self, candidate: Any) -> str:
        if isinstance(candidate, Expression):
            return str(candidate)
        return " ".join(f"{move:+.4f}" for move in candidate)

    def _fitness(self) -> dict[int, float]:
        return {
            trial.number: trial.value for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()
        }

    def _wait(self, count: int) -> None:
        """Return when the first `count` trials are told."""
        while not self._fitness().keys() >= set(range(count)):
            time.sleep(_POLL)
            self._take_over(count)

    def _take_over(self, count: int) -> None:
        """Evaluate those of the first `count` that killed workers here had claimed; the leader alone does."""
        if not self.leads:
            return
        multiprocessing.active_children()  # ended ones are forgotten by the system only when asked for
        for number in sorted(trial.number for trial in self.study.get_trials(deepcopy=False) if _abandoned(trial)):
            if number < count:
                self._evaluate(number)


def _me() -> str:
    return f"{socket.gethostname()} {os.getpid()}"


def _abandoned(trial: Any) -> bool:
    if trial.state.is_finished():
        return False
    owner = trial.user_attrs.get("owner")
    if owner is None:
        return trial.datetime_start is None or (datetime.now() - trial.datetime_start).total_seconds() > _CLAIMING
    host, process = owner.rsplit(" ", 1)
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    return False


def _study(job: _Job) -> Any:
    """The study of this name in the storage, made if it is new. Raises InputError when it cannot be opened."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise InputError("searching needs Optuna: pip install 'secateur[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = job.settings.storage or f"journal:{job.folder / 'study.log'}"
    try:
        storage: Any = url
        if url.startswith("journal:"):
            path = Path(url.removeprefix("journal:")).absolute()  # its lock is a link to it, which has to lead there
            backend = JournalFileBackend(str(path))
            storage = optuna.storages.JournalStorage(backend)
        return optuna.create_study(storage=storage, study_name=job.folder.name, load_if_exists=True)
    except Exception as error:  # SQLAlchemy, its drivers and Optuna each raise their own kinds
        raise InputError(
            f"storage {url!r} cannot be opened ({str(error).splitlines()[0]}): give journal:PATH or an SQLAlchemy URL "
            "such as sqlite:///search.db"
        ) from error


def _check_plan(study: Any, job: _Job, ids: TokenIds) -> None:
    """A study goes on with what it was begun with; expressions may be given more trials."""
    content = {"model": Checkpoint(job.source.folder).digests(), "ids": tensor_digest({"ids": ids, "judged": job.ids})}
    plan = json.loads(json.dumps(asdict(job.settings) | content))
    for free in ("workers", "storage", *(["trials"] if job.settings.space == "expressions" else [])):
        plan.pop(free)
    begun = study.user_attrs.get("plan")
    if begun is None:
        study.set_user_attr("plan", plan)
        return
    for key, value in plan.items():
        if begun.get(key) != value:
            raise InputError(
                f"search in {job.folder} was begun with {key} {begun.get(key)!r}, now it is {value!r}: "
                "keep it, or take another --out"
            )
