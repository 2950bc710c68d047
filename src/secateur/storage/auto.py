"""`import secateur` lets transformers' Auto classes load shrunk models, without importing torch itself."""

import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["install"]

_AUTO = "transformers.models.auto.auto_factory"


class _Then(Loader):
    """Runs a module as its own loader would, then lets it find our classes."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _finds_ours(module)


class _Waiting(MetaPathFinder):
    """Waits for transformers' auto classes; steps aside once they are found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _AUTO:
            return None
        sys.meta_path.remove(self)  # else find_spec below would ask this finder again
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader)
        return spec


def _finds_ours(factory: Any) -> None:
    """Let every mapping from configs to classes give ours, each when it is asked for.

    Nothing is imported before: a family's own module may still be half imported.
    """
    mapping = factory._LazyAutoMapping
    found = mapping.__getitem__
    if getattr(found, "_secateur", False):
        return

    def getitem(self: Any, key: Any) -> Any:
        from secateur.storage.resize import ours

        return ours(key, found(self, key))

    getitem._secateur = True  # type: ignore[attr-defined]
    mapping.__getitem__ = getitem


def _needed(record: logging.LogRecord) -> bool:
    """Whether a warning of transformers says something: that sizes differ by block is what our classes are for."""
    return "Reading global config value" not in str(record.msg)


def install() -> None:
    """Let transformers' Auto classes find ours: now if they are there, else when they are first imported."""
    logging.getLogger("transformers.integrations.heterogeneity.configuration_utils").addFilter(_needed)
    if _AUTO in sys.modules:
        _finds_ours(sys.modules[_AUTO])
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())
