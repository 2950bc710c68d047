"""Prune trained models under a budget and get back a smaller model that loads anywhere."""

from importlib import import_module
from typing import Any

from secateur.storage.auto import install

_MODULES = {  # public names and where they are; __init__.pyi says the same to type checkers
    "BudgetPruner": "secateur.forest.pruner",
    "Calibration": "secateur.calibrate.data",
    "DataOptions": "secateur.heads.task_model",
    "Finetuning": "secateur.train.classifier",
    "Lottery": "secateur.lottery.plan",
    "MaskSettings": "secateur.masks.maskllm",
    "MaskTask": "secateur.masks.learn",
    "Masks": "secateur.core.mask",
    "NetworkRecipe": "secateur.images.recipe",
    "NetworkTraining": "secateur.images.train",
    "Perplexity": "secateur.evaluate.perplexity",
    "Recipe": "secateur.run.recipe",
    "RemovalOptions": "secateur.heads.removal",
    "Result": "secateur.run.result",
    "Scoring": "secateur.heads.scoring",
    "Search": "secateur.search.study",
    "SecateurError": "secateur.core.errors",
    "SoftToHard": "secateur.train.s2h",
    "SoftToHardSettings": "secateur.train.s2h",
    "Training": "secateur.train.recover",
    "ablate": "secateur.heads.ablation",
    "certify": "secateur.lottery.certificate",
    "convert": "secateur.export.convert",
    "describe_channels": "secateur.convnet.structure",
    "find_ticket": "secateur.lottery.log_pruning",
    "finetune": "secateur.heads.finetune",
    "head_curve": "secateur.heads.curve",
    "keep_one": "secateur.heads.ablation",
    "learn_masks": "secateur.masks.learn",
    "load": "secateur.storage.source",
    "load_recipe": "secateur.run.recipe",
    "load_ticket": "secateur.lottery.run",
    "measure": "secateur.evaluate.measure",
    "open_network": "secateur.storage.network",
    "open_task_model": "secateur.heads.task_model",
    "plan_removal": "secateur.heads.removal",
    "plan_target": "secateur.lottery.plan",
    "prune": "secateur.run.prune",
    "prune_channels_": "secateur.images.prune",
    "prune_heads": "secateur.heads.prune",
    "prune_network": "secateur.images.prune",
    "read_target": "secateur.lottery.target",
    "recover": "secateur.run.recover",
    "score_heads": "secateur.heads.scoring",
    "search_ratios": "secateur.search.study",
    "train_network": "secateur.images.train",
    "verify_folders": "secateur.evaluate.agreement",
}
__all__ = [*_MODULES]

install()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds, `--help` should not."""
    if name not in _MODULES:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """The public names, and the packages that are imported."""
    return sorted({*globals(), *_MODULES})
