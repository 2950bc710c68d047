"""Prune trained models under a budget and get back a smaller model that loads anywhere.

>>> from secateur import Recipe
>>> Recipe(method="wanda", pattern="2:4").target()
0.5
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from secateur.storage.auto import install

if TYPE_CHECKING:
    from secateur.calibrate.data import Calibration
    from secateur.core.errors import SecateurError
    from secateur.core.mask import Masks
    from secateur.evaluate.agreement import verify_folders
    from secateur.evaluate.measure import measure
    from secateur.export.convert import convert
    from secateur.forest.pruner import BudgetPruner
    from secateur.heads.ablation import ablate, keep_one
    from secateur.heads.curve import head_curve
    from secateur.heads.finetune import finetune
    from secateur.heads.prune import prune_heads
    from secateur.heads.removal import RemovalOptions, plan_removal
    from secateur.heads.scoring import Scoring, score_heads
    from secateur.heads.task_model import DataOptions, open_task_model
    from secateur.lottery.certificate import certify
    from secateur.lottery.log_pruning import find_ticket
    from secateur.lottery.plan import Lottery, plan_target
    from secateur.lottery.run import load_ticket
    from secateur.lottery.target import read_target
    from secateur.run.prune import prune
    from secateur.run.recipe import Recipe, load_recipe
    from secateur.run.recover import recover
    from secateur.run.result import Result
    from secateur.search.study import Search, search_ratios
    from secateur.storage.source import load
    from secateur.train.classifier import Finetuning
    from secateur.train.recover import Training

__all__ = [
    "BudgetPruner",
    "Calibration",
    "DataOptions",
    "Finetuning",
    "Lottery",
    "Masks",
    "Recipe",
    "RemovalOptions",
    "Result",
    "Scoring",
    "Search",
    "SecateurError",
    "Training",
    "ablate",
    "certify",
    "convert",
    "find_ticket",
    "finetune",
    "head_curve",
    "keep_one",
    "load",
    "load_recipe",
    "load_ticket",
    "measure",
    "open_task_model",
    "plan_removal",
    "plan_target",
    "prune",
    "prune_heads",
    "read_target",
    "recover",
    "score_heads",
    "search_ratios",
    "verify_folders",
]

_HOME = {
    "BudgetPruner": "secateur.forest.pruner",
    "Calibration": "secateur.calibrate.data",
    "Masks": "secateur.core.mask",
    "Recipe": "secateur.run.recipe",
    "Result": "secateur.run.result",
    "Search": "secateur.search.study",
    "SecateurError": "secateur.core.errors",
    "Finetuning": "secateur.train.classifier",
    "DataOptions": "secateur.heads.task_model",
    "RemovalOptions": "secateur.heads.removal",
    "Scoring": "secateur.heads.scoring",
    "Lottery": "secateur.lottery.plan",
    "convert": "secateur.export.convert",
    "verify_folders": "secateur.evaluate.agreement",
    "certify": "secateur.lottery.certificate",
    "find_ticket": "secateur.lottery.log_pruning",
    "load_ticket": "secateur.lottery.run",
    "plan_target": "secateur.lottery.plan",
    "read_target": "secateur.lottery.target",
    "ablate": "secateur.heads.ablation",
    "finetune": "secateur.heads.finetune",
    "head_curve": "secateur.heads.curve",
    "keep_one": "secateur.heads.ablation",
    "load": "secateur.storage.source",
    "open_task_model": "secateur.heads.task_model",
    "plan_removal": "secateur.heads.removal",
    "prune_heads": "secateur.heads.prune",
    "score_heads": "secateur.heads.scoring",
    "measure": "secateur.evaluate.measure",
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
