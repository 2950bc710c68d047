"""Where log records go: warnings to stderr, all of them with -v, to a file as JSON lines, to TensorBoard as curves."""

import json
import logging
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.logging import RichHandler

from secateur.core.errors import InputError, StorageError
from secateur.terminal.console import err

__all__ = ["JsonLines", "Scalars", "draw_to", "log_to", "set_up_log", "tell_all"]

_log = logging.getLogger("secateur")


class JsonLines(logging.FileHandler):
    """One JSON object a record: time, level, logger, message, and the record's facts."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(told | dict(getattr(record, "facts", {})), default=str)


class Scalars(logging.Handler):
    """One point a number among a record's facts, on the curve of its name; the step is how many came before it.

    A fact named `step` says the step itself.
    """

    def __init__(self, writer: Any) -> None:
        """writer: TensorBoard's."""
        super().__init__()
        self.writer, self.counts = writer, Counter[str]()

    def emit(self, record: logging.LogRecord) -> None:
        """Add a record's numbers."""
        facts = dict(getattr(record, "facts", {}))
        step = facts.pop("step", None)
        for name, value in facts.items():
            if _drawn(value):
                self.writer.add_scalar(name, value, step if _drawn(step) else self.counts[name])
                self.counts[name] += 1

    def close(self) -> None:
        """Write what is held back."""
        self.writer.close()
        super().close()


def _drawn(value: Any) -> bool:
    """Whether a value is a number that a curve can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def set_up_log() -> None:
    """Show warnings on stderr, and forget files of an earlier command."""
    for handler in [handler for handler in _log.handlers if isinstance(handler, JsonLines | Scalars)]:
        _log.removeHandler(handler)
        handler.close()
    screen = RichHandler(console=err, show_path=False)
    logging.basicConfig(level="WARNING", handlers=[screen], format="%(message)s")
    _log.setLevel("NOTSET")
    _show("WARNING")


def tell_all() -> None:
    """Show every record on stderr."""
    _log.setLevel("DEBUG")
    _show("DEBUG")


def log_to(path: Path) -> None:
    """Append every record to a file as JSON. Raises StorageError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = JsonLines(path, mode="a", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"--log-to {path} cannot be written: {error.strerror}") from error
    _log.addHandler(handler)
    _log.setLevel("DEBUG")


def draw_to(folder: Path) -> None:
    """Write every figure of the records to a folder that TensorBoard reads.

    Raises InputError where TensorBoard is not installed, StorageError where the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("--tensorboard needs its package: pip install 'secateur[tensorboard]'") from error
    try:
        handler = Scalars(SummaryWriter(str(folder)))
    except OSError as error:
        raise StorageError(f"--tensorboard {folder} cannot be written: {error.strerror}") from error
    _log.addHandler(handler)
    _log.setLevel("DEBUG")


def _show(level: str) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RichHandler):
            handler.setLevel(level)
