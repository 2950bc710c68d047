"""Where log records go: warnings to stderr, all of them with -v, and every one as a line of JSON to a file."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from rich.logging import RichHandler

from secateur.core.errors import StorageError
from secateur.terminal.console import err

__all__ = ["JsonLines", "log_to", "set_up_log", "tell_all"]

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


def set_up_log() -> None:
    """Show warnings on stderr, and forget files of an earlier command."""
    for handler in [handler for handler in _log.handlers if isinstance(handler, JsonLines)]:
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


def _show(level: str) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RichHandler):
            handler.setLevel(level)
