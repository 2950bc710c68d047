"""What a run says of itself while it works: stages and figures, as log records that a screen or a file follows."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["Facts", "listening", "report", "stage"]

Facts = Mapping[str, Any]
_log = logging.getLogger(__name__)


def stage(name: str) -> None:
    """Say that another stage of the work begins, such as 'pruning blocks'."""
    report("%s", name, stage=name)


def report(message: str, *words: object, **facts: Any) -> None:
    """Log a sentence at level INFO, with its figures as the record's `facts`; it costs nothing if nobody listens."""
    _log.info(message, *words, extra={"facts": facts})


@contextmanager
def listening(listener: Callable[[Facts], None]) -> Iterator[None]:
    """Call a listener with the facts of every record. Logs that were off stay off."""
    handler = _Listener(listener)
    level, propagate = _log.level, _log.propagate
    if not _log.isEnabledFor(logging.INFO):
        _log.setLevel(logging.INFO)
        _log.propagate = False  # the screen has the figures already
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        _log.propagate = propagate


class _Listener(logging.Handler):
    def __init__(self, listener: Callable[[Facts], None]) -> None:
        super().__init__()
        self._listener = listener

    def emit(self, record: logging.LogRecord) -> None:
        self._listener(getattr(record, "facts", {}))
