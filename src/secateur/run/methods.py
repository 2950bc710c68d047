"""The tables of names: where each object is imported from, and one line for people. Nothing heavy is imported here."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from secateur.core.errors import PatternError
from secateur.registry import Row, Table, nearest

if TYPE_CHECKING:  # these import torch
    from secateur.allocate.problem import Allocator
    from secateur.core.protocols import Score, Solver
    from secateur.score.filters import ChannelScore

__all__ = [
    "ALLOCATORS",
    "CHANNEL_ALLOCATORS",
    "CHANNEL_METHODS",
    "CHANNEL_SITES",
    "METHODS",
    "NETWORK_METHODS",
    "PATTERNS",
    "POINTWISE",
    "REPAIRS",
    "SAVE_DTYPES",
    "SCORES",
    "SOLVERS",
    "TAPS",
    "UNITS",
    "Method",
    "check_pattern",
    "usual_pattern",
]

SCORES: "Table[Callable[..., Score]]" = Table(
    "score",
    {
        "fluctuation": Row(
            "secateur.score.fluctuation:Fluctuation",
            "FLAP's score, which sums over a column to the variance of its input times the squared column norm.",
        ),
        "magnitude": Row("secateur.score.magnitude:Magnitude", "The size of a weight; no calibration needed."),
        "random": Row(
            "secateur.score.random:Random",
            "One number for every input, the same for all outputs and for layers of one width.",
        ),
        "ria": Row("secateur.score.ria:RIA", "A weight relative to its row and column, times the norm of its input."),
        "taylor": Row("secateur.score.taylor:Taylor", "How much the loss changes without a weight, to first order."),
        "wanda": Row("secateur.score.wanda:Wanda", "What a weight contributes to its output."),
    },
    group="secateur.scores",
)
SOLVERS: "Table[Callable[..., Solver]]" = Table(
    "solver",
    {
        "admm": Row(
            "secateur.solve.admm:ADMM",
            "Least squares and projection in turns, until the mask rests; then conjugate gradients on that mask.",
        ),
        "bias-compensation": Row(
            "secateur.solve.bias_compensation:BiasCompensation",
            "Every output gains what the removed inputs gave it on average, so that its mean stays.",
        ),
        "mask-only": Row("secateur.solve.mask_only:MaskOnly", "Keep the highest scores as they are."),
        "refit": Row("secateur.solve.refit:Refit", "Choose by score, then solve every row exactly on its kept inputs."),
        "shortgpt": Row(
            "secateur.solve.shortgpt:ShortGPT",
            "Remove the blocks that change their input least, all at once, without repair.",
        ),
        "slimgpt": Row("secateur.solve.slimgpt:SlimGPT", "Remove the cheapest unit, repair what is kept, repeat."),
        "sparsegpt": Row(
            "secateur.solve.sparsegpt:SparseGPT",
            "One sweep over columns: remove by saliency, push each error on to the columns that follow.",
        ),
    },
    group="secateur.solvers",
)
ALLOCATORS: "Table[Callable[..., Allocator]]" = Table(
    "allocator",
    {
        "alpha": Row(
            "secateur.allocate.alpha:AlphaPruning",
            "A block's ratio rises linearly with the mean tail exponent of its matrices.",
        ),
        "als": Row(
            "secateur.allocate.als:ALS",
            "Li et al. 2024, a reconstruction: no code was published, and read literally its program is degenerate.",
        ),
        "auto": Row(
            "secateur.judged.auto:Auto",
            "Ours: uniform, OWL, ALS, the knapsack with three bounds, and a step from the best of them; "
            "the best one is taken.",
        ),
        "dsa": Row(
            "secateur.allocate.dsa:DSA",
            "An expression turns a block's Wanda scores into one number; a larger one loses more.",
        ),
        "incremental": Row("secateur.allocate.incremental:Incremental", "Ratios that rise with depth as a logarithm."),
        "knapsack": Row(
            "secateur.allocate.knapsack:Knapsack",
            "Ours: every matrix's loss is measured at eleven ratios up to 1; then the best choice of ratios is exact.",
        ),
        "owl": Row("secateur.allocate.owl:OWL", "A block with many outlying Wanda scores keeps more."),
        "ranking": Row(
            "secateur.allocate.ranking:Ranking", "The share of every matrix below a threshold common to all."
        ),
        "relinearised": Row(
            "secateur.judged.relinearised:Relinearised",
            "Ours: the knapsack's ratios, then steps whose prices are taken at the masked model "
            "and judged on held-out text.",
        ),
        "uniform": Row("secateur.allocate.uniform:Uniform", "Every block loses the same share."),
        "unit-knapsack": Row(
            "secateur.allocate.unit_knapsack:UnitKnapsack",
            "Ours, for units: a block's loss is that of its attention's and ffn's last matrices "
            "less a share of columns.",
        ),
    },
    group="secateur.allocators",
)
CHANNEL_METHODS: "Table[Callable[..., ChannelScore]]" = Table(
    "method",
    {
        "l1": Row("secateur.score.filters:FilterNorm", "Filters of the smallest absolute sum (Li et al. 2017)."),
        "l2": Row("secateur.score.filters:L2", "Filters of the smallest norm."),
        "group-l2": Row("secateur.score.filters:GroupNorm", "Channels whose weights, read and made, are smallest."),
        "bn-scale": Row("secateur.score.filters:BNScale", "The smallest batch-norm scales (Liu et al. 2017)."),
        "fpgm": Row("secateur.score.filters:FPGM", "Filters nearest to all others (He et al. 2019)."),
        "lamp": Row("secateur.score.filters:LAMP", "Squared norm relative to what is larger (Lee et al. 2021)."),
        "taylor": Row(
            "secateur.score.filters:TaylorChannels", "The loss's first-order change (Molchanov et al. 2019)."
        ),
        "refit": Row("secateur.score.filters:GroupNorm", "As group-l2; then least squares on what is kept."),
        "random": Row("secateur.score.filters:RandomChannels", "Channels at random: what any score must beat."),
    },
    group="secateur.channel_scores",
)
NETWORK_METHODS: Mapping[str, str] = {
    "deprune": "Taps of depthwise convolutions and channels, to a time that is measured (Park et al. 2024).",
}
CHANNEL_ALLOCATORS: Mapping[str, str] = {
    "uniform": "the same share at every site",
    "global": "the lowest scores of all sites",
    "knapsack": "the lowest scores for what a channel costs; for scores that are losses, as taylor's",
}
CHANNEL_SITES: Mapping[str, str] = {
    "all": "every site",
    "inner": "not channels that residual additions tie together",
}
TAPS: Mapping[str, str] = {
    "run": "runs of 16 channels keep the same taps: what the blocked runtime leaves out",
    "balanced": "equally many taps in every 32 channels, by size (BWT)",
    "channel": "the largest taps of a layer (DCP)",
    "none": "all taps stay",
}
POINTWISE: Mapping[str, str] = {
    "expanded": "channels between a block's pointwise convolutions",
    "projected": "channels that blocks project to, by their norm: the published rule",
    "none": "all channels stay",
}
REPAIRS: Mapping[str, str] = {
    "auto": "refit for method refit; else norms where there are pictures",
    "none": "weights stay as they are",
    "norms": "batch norms are corrected",
    "refit": "batch norms are corrected, and what reads removed channels is solved by least squares",
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
SAVE_DTYPES: Mapping[str, str] = {
    "auto": "the checkpoint's own",
    "float32": "4 bytes a weight",
    "bfloat16": "2 bytes a weight, with the range of float32",
    "float16": "2 bytes a weight",
}
_PLAIN = {name for name in PATTERNS if name == name.lower()} | {"columns"}
_NUMBERED = re.compile(r"columns:\d{1,9}|\d{1,9}:\d{1,9}")


class Method(NamedTuple):
    """A pair of solver and score under one name, its usual pattern, and one line for people.

    solver: a name of SOLVERS, or what makes one.
    defaults: the solver's fields that the method sets.
    """

    solver: "str | Callable[..., Solver]"
    defaults: Mapping[str, Any]
    pattern: str
    line: str


METHODS: Table[Method] = Table(
    "method",
    {
        "admm": Method(
            "admm", {}, "unstructured", "mask and weights together, the least layer loss (Meng et al. 2024)"
        ),
        "flap": Method(
            "bias-compensation",
            {"score": "fluctuation"},
            "heads+channels",
            "inputs that vary least; their mean becomes a bias (An et al. 2024)",
        ),
        "fluctuation": Method(
            "mask-only", {"score": "fluctuation"}, "heads+channels", "the same score, and no bias is added"
        ),
        "magnitude": Method(
            "mask-only", {"score": "magnitude"}, "unstructured", "smallest weights go; no calibration (Han et al. 2015)"
        ),
        "refit": Method(
            "refit", {"score": "wanda"}, "row", "any score, then exact least squares on what is kept; slow"
        ),
        "ria": Method(
            "mask-only",
            {"score": "ria"},
            "unstructured",
            "weights relative to row and column, times inputs (Zhang et al. 2024)",
        ),
        "random": Method(
            "mask-only", {"score": "random"}, "heads+channels", "inputs at random; what any choice must beat"
        ),
        "shortgpt": Method("shortgpt", {}, "blocks", "whole blocks that change their input least (Men et al. 2024)"),
        "slimgpt": Method(
            "slimgpt", {}, "heads+channels", "greedy OBS removal of heads and channels, with repair (Ling et al. 2024)"
        ),
        "sparsegpt": Method(
            "sparsegpt", {}, "unstructured", "OBS sweep that repairs what is kept (Frantar & Alistarh 2023)"
        ),
        "taylor": Method(
            "mask-only", {"score": "taylor"}, "heads+channels", "first-order change of the loss (LLM-Pruner, 2023)"
        ),
        "wanda": Method(
            "mask-only", {"score": "wanda"}, "row", "weights times the norm of their inputs (Sun et al. 2024)"
        ),
    },
    group="secateur.methods",
    wanted=Method,
)


def usual_pattern(solver: object) -> str:
    """The pattern of the first method that has an object's class as its solver; unstructured where none has."""
    place = f"{type(solver).__module__}:{type(solver).__qualname__}"
    names = [name for name, row in SOLVERS.rows.items() if isinstance(row, Row) and row.place == place]
    rows = [row for row in METHODS.rows.values() if isinstance(row, Method)]
    return next((row.pattern for row in rows if row.solver in names), "unstructured")


def check_pattern(name: str) -> None:
    """Raise PatternError, with the nearest name, on a pattern that no table has and no number makes."""
    if name not in _PLAIN and not _NUMBERED.fullmatch(name):
        raise PatternError(f"pattern {name!r} is unknown{nearest(name, PATTERNS)}")
