"""The tables: name to class, plus entry points of third parties."""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from secateur.allocate.alpha import AlphaPruning
from secateur.allocate.als import ALS
from secateur.allocate.dsa import DSA
from secateur.allocate.incremental import Incremental
from secateur.allocate.knapsack import Knapsack
from secateur.allocate.owl import OWL
from secateur.allocate.problem import Allocator
from secateur.allocate.ranking import Ranking
from secateur.allocate.uniform import Uniform
from secateur.allocate.unit_knapsack import UnitKnapsack
from secateur.core.protocols import Score, Solver
from secateur.score.fluctuation import Fluctuation
from secateur.score.magnitude import Magnitude
from secateur.score.random import Random
from secateur.score.ria import RIA
from secateur.score.taylor import Taylor
from secateur.score.wanda import Wanda
from secateur.solve.bias_compensation import BiasCompensation
from secateur.solve.mask_only import MaskOnly
from secateur.solve.refit import Refit
from secateur.solve.shortgpt import ShortGPT
from secateur.solve.slimgpt import SlimGPT
from secateur.solve.sparsegpt import SparseGPT

__all__ = ["ALLOCATORS", "METHODS", "PATTERNS", "SCORES", "SOLVERS", "UNITS", "Method", "find_method"]

SCORES: Mapping[str, Callable[..., Score]] = {
    "fluctuation": Fluctuation,
    "magnitude": Magnitude,
    "random": Random,
    "ria": RIA,
    "taylor": Taylor,
    "wanda": Wanda,
}
SOLVERS: Mapping[str, Callable[..., Solver]] = {
    "bias-compensation": BiasCompensation,
    "mask-only": MaskOnly,
    "refit": Refit,
    "shortgpt": ShortGPT,
    "slimgpt": SlimGPT,
    "sparsegpt": SparseGPT,
}
ALLOCATORS: Mapping[str, Callable[..., Allocator]] = {
    "alpha": AlphaPruning,
    "als": ALS,
    "dsa": DSA,
    "incremental": Incremental,
    "knapsack": Knapsack,
    "owl": OWL,
    "ranking": Ranking,
    "uniform": Uniform,
    "unit-knapsack": UnitKnapsack,
}
PATTERNS: Mapping[str, str] = {
    "unstructured": "a share of each matrix, anywhere",
    "row": "the same share of every output row",
    "columns:UNIT": "whole groups of UNIT input columns",
    "heads+channels": "whole KV groups and ffn channels, removed",
    "query-heads+channels": "query heads, with shared K and V kept, and ffn channels, removed",
    "kv-groups+channels": "as heads+channels, refused where heads cannot be removed",
    "channels": "whole ffn channels, removed",
    "blocks": "whole transformer blocks, removed",
    "N:M": "N kept of every M consecutive inputs, such as 2:4 or 4:8",
}
UNITS: Mapping[str, str] = {  # what of attention a pattern removes along with channels, as adapt/attention.py names it
    "heads+channels": "auto",
    "kv-groups+channels": "kv_groups",
    "query-heads+channels": "heads",
    "channels": "none",
}


class Method(NamedTuple):
    """A named pair of solver and score, its usual pattern, and one line for people."""

    solver: Callable[..., Solver]
    defaults: Mapping[str, Any]
    pattern: str
    line: str


METHODS: Mapping[str, Method] = {
    "flap": Method(
        BiasCompensation,
        {"score": "fluctuation"},
        "heads+channels",
        "inputs that vary least; their mean becomes a bias (An et al. 2024)",
    ),
    "fluctuation": Method(MaskOnly, {"score": "fluctuation"}, "heads+channels", "the same score, and no bias is added"),
    "magnitude": Method(
        MaskOnly, {"score": "magnitude"}, "unstructured", "smallest weights go; no calibration (Han et al. 2015)"
    ),
    "refit": Method(Refit, {"score": "wanda"}, "row", "any score, then exact least squares on what is kept; slow"),
    "ria": Method(
        MaskOnly,
        {"score": "ria"},
        "unstructured",
        "weights relative to row and column, times inputs (Zhang et al. 2024)",
    ),
    "random": Method(MaskOnly, {"score": "random"}, "heads+channels", "inputs at random; what any choice must beat"),
    "shortgpt": Method(ShortGPT, {}, "blocks", "whole blocks that change their input least (Men et al. 2024)"),
    "slimgpt": Method(
        SlimGPT, {}, "heads+channels", "greedy OBS removal of heads and channels, with repair (Ling et al. 2024)"
    ),
    "sparsegpt": Method(SparseGPT, {}, "unstructured", "OBS sweep that repairs what is kept (Frantar & Alistarh 2023)"),
    "taylor": Method(
        MaskOnly, {"score": "taylor"}, "heads+channels", "first-order change of the loss (LLM-Pruner, 2023)"
    ),
    "wanda": Method(MaskOnly, {"score": "wanda"}, "row", "weights times the norm of their inputs (Sun et al. 2024)"),
}


def find_method(name: str) -> Method | None:
    """A method of the table, or of an installed package's `secateur.methods` entry point."""
    if name in METHODS:
        return METHODS[name]
    for entry in entry_points(group="secateur.methods"):
        if entry.name == name:
            return entry.load()
    return None
