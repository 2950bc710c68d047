"""Progress on stderr: a bar on a terminal, elsewhere a line every few seconds; stage, time left and figures."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from secateur.events import Facts, listening
from secateur.terminal import console

__all__ = ["progress"]

_EVERY = 5.0  # seconds between lines where there is no terminal


class _Work:
    """Which stage of the work it is, how far, since when, and the latest figures."""

    def __init__(self, label: str) -> None:
        self.label, self.done, self.total = label, 0, 0
        self.begun = self.since = time.monotonic()
        self.figures: dict[str, float] = {}

    def tell(self, done: int, total: int, word: str | None = None) -> None:
        if done < self.done:  # counting starts again: a new round of the same work
            self.since = time.monotonic()
        self.done, self.total, self.label = done, total, word or self.label

    def hear(self, facts: Facts) -> None:
        """Take the figures of a record: a loss of layers is summed, others replace what was there."""
        if "stage" in facts:
            self.label, self.done, self.total, self.since = facts["stage"], 0, 0, time.monotonic()
        if facts.get("layer_loss") is not None:
            self.figures["layer loss"] = self.figures.get("layer loss", 0.0) + facts["layer_loss"]
        for key in ("loss", "tokens_per_second", "peak_memory_mb"):
            if facts.get(key) is not None:
                self.figures[key] = facts[key]

    def left(self) -> str:
        """The time this stage still takes, from the mean of what is done."""
        if not self.done:
            return ""
        seconds = (time.monotonic() - self.since) / self.done * (self.total - self.done)
        return f", about {seconds:,.0f} s left"

    def told(self) -> str:
        """The figures in words, a comma before each."""
        forms = {
            "layer loss": "summed layer loss {:,.4g}",
            "loss": "loss {:.4g}",
            "tokens_per_second": "{:,.0f} tokens/s",
            "peak_memory_mb": "peak {:,.0f} MB",
        }
        return "".join(f", {form.format(self.figures[key])}" for key, form in forms.items() if key in self.figures)


@contextmanager
def progress(label: str) -> Iterator[Callable[..., None]]:
    """Show progress while the context lasts: a bar, or a line now and then where stderr is no terminal.

    The context is called with how many are done of how many, and perhaps another label. Stages and figures that the
    work reports (secateur/events.py) are shown beside it.
    """
    if console.hushed():
        yield lambda *_: None
        return
    work = _Work(label)
    with listening(work.hear), (_bar if console.err.is_terminal else _lines)(work):
        yield work.tell


@contextmanager
def _bar(work: _Work) -> Iterator[None]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[count]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}", markup=False),
    )
    with Progress(*columns, console=console.err, transient=True) as bar:
        task = bar.add_task(work.label, total=None, count="", told="")

        def show() -> None:
            count = f"{work.done}/{work.total}" if work.total else ""  # a count is shown once it is known
            told = (work.left() + work.told()).removeprefix(", ")
            total = work.total or None
            bar.update(task, completed=work.done, total=total, description=work.label, count=count, told=told)

        with _every(0.1, show):
            yield
        show()


@contextmanager
def _lines(work: _Work) -> Iterator[None]:
    """A line every few seconds: what, how far, how long still; nothing of what ends sooner."""

    def speak() -> None:
        far = f"{work.done} of {work.total} done, " if work.total else ""
        spent = time.monotonic() - work.begun
        console.err.print(f"{work.label}: {far}{spent:,.0f} s{work.left()}{work.told()}", soft_wrap=True)

    with _every(_EVERY, speak):
        yield


@contextmanager
def _every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Act every so many seconds in a thread of its own."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            act()

    actor = threading.Thread(target=run, daemon=True)
    actor.start()
    try:
        yield
    finally:
        ended.set()
        actor.join()
