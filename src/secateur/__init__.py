"""Prune trained models under a budget and get back a smaller model that loads anywhere.

>>> from secateur import Recipe
>>> Recipe(method="wanda", pattern="2:4").target()
0.5
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from secateur.adapt.auto import install

if TYPE_CHECKING:
    from secateur.adapt.source import load
    from secateur.calibrate.data import Calibration
    from secateur.core.errors import SecateurError
    from secateur.core.mask import Masks
    from secateur.run.evaluate import measure
    from secateur.run.prune import prune
    from secateur.run.recipe import Recipe, load_recipe
    from secateur.run.recover import recover
    from secateur.run.result import Result
    from secateur.search.study import Search, search_ratios
    from secateur.train.recover import Training

__all__ = [
    "Calibration",
    "Masks",
    "Recipe",
    "Result",
    "Search",
    "SecateurError",
    "Training",
    "load",
    "load_recipe",
    "measure",
    "prune",
    "recover",
    "search_ratios",
]

_HOME = {
    "Calibration": "secateur.calibrate.data",
    "Masks": "secateur.core.mask",
    "Recipe": "secateur.run.recipe",
    "Result": "secateur.run.result",
    "Search": "secateur.search.study",
    "SecateurError": "secateur.core.errors",
    "load": "secateur.adapt.source",
    "measure": "secateur.run.evaluate",
    "load_recipe": "secateur.run.recipe",
    "prune": "secateur.run.prune",
    "recover": "secateur.run.recover",
    "Training": "secateur.train.recover",
    "search_ratios": "secateur.search.study",
}


install()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds, `--help` should not."""
    if name not in _HOME:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
