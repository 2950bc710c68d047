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
    "COMMANDS",
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
            "Variance of an input times the squared norm of its column (FLAP).",
        ),
        "magnitude": Row("secateur.score.magnitude:Magnitude", "Size of a weight; needs no calibration."),
        "random": Row(
            "secateur.score.random:Random",
            "One random number for every input.",
        ),
        "ria": Row("secateur.score.ria:RIA", "Weight relative to its row and column, times its input's norm."),
        "taylor": Row("secateur.score.taylor:Taylor", "First-order change of the loss without a weight."),
        "wanda": Row("secateur.score.wanda:Wanda", "Size of a weight times the norm of its input."),
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
        "drop-experts": Row(
            "secateur.experts.dropping:DropExperts",
            "Remove the experts of the lowest score, equally many in every layer, without repair.",
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
            "From the tails of weight spectra (Lu et al. 2024).",
        ),
        "als": Row(
            "secateur.allocate.als:ALS",
            "From activations that repeat other layers' (Li et al. 2024).",
        ),
        "auto": Row(
            "secateur.judged.auto:Auto",
            "Ours: uniform, OWL, ALS, the knapsack with three bounds, and a step from the best of them; "
            "the best one is taken.",
        ),
        "dsa": Row(
            "secateur.allocate.dsa:DSA",
            "An expression of a block's Wanda scores (Li et al. 2024).",
        ),
        "incremental": Row(
            "secateur.allocate.incremental:Incremental", "Ratios rise with the logarithm of depth (SlimGPT)."
        ),
        "knapsack": Row(
            "secateur.allocate.knapsack:Knapsack",
            "Ours: least summed second-order loss, solved exactly.",
        ),
        "owl": Row("secateur.allocate.owl:OWL", "Blocks with many outliers keep more (Yin et al. 2024)."),
        "ranking": Row("secateur.allocate.ranking:Ranking", "One threshold over all weights."),
        "relinearised": Row(
            "secateur.judged.relinearised:Relinearised",
            "Ours: the knapsack's ratios, then steps whose prices are taken at the masked model "
            "and judged on held-out text.",
        ),
        "uniform": Row("secateur.allocate.uniform:Uniform", "The same share everywhere."),
        "unit-knapsack": Row(
            "secateur.allocate.unit_knapsack:UnitKnapsack",
            "Ours: the knapsack for heads and channels.",
        ),
    },
    group="secateur.allocators",
)
CHANNEL_METHODS: "Table[Callable[..., ChannelScore]]" = Table(
    "method",
    {
        "l1": Row("secateur.score.filters:FilterNorm", "Filters of the smallest absolute sum (Li et al. 2017)."),
        "l2": Row("secateur.score.filters:L2", "Filters of the smallest norm."),
        "group-l2": Row("secateur.score.filters:GroupNorm", "Channels with the smallest filters and readers."),
        "bn-scale": Row("secateur.score.filters:BNScale", "The smallest batch-norm scales (Liu et al. 2017)."),
        "fpgm": Row("secateur.score.filters:FPGM", "Filters nearest to all others (He et al. 2019)."),
        "lamp": Row("secateur.score.filters:LAMP", "Squared norm relative to what is larger (Lee et al. 2021)."),
        "taylor": Row(
            "secateur.score.filters:TaylorChannels", "The loss's first-order change (Molchanov et al. 2019)."
        ),
        "refit": Row("secateur.score.filters:GroupNorm", "As group-l2, then least squares on what is kept."),
        "random": Row("secateur.score.filters:RandomChannels", "Random channels: the baseline to beat."),
    },
    group="secateur.channel_scores",
)
NETWORK_METHODS: Mapping[str, str] = {
    "deprune": "Depthwise taps and channels, to a measured time (Park et al. 2024).",
}
COMMANDS: Mapping[str, str] = {
    "maskllm": "secateur train --method maskllm: n:m masks (Fang et al. 2024)",
    "s2h": "secateur train --method s2h: widths of a CNN (Lin et al. 2024)",
    "michel": "secateur heads: attention heads (Michel et al. 2019)",
    "budgetprune": "secateur forest: forests under feature costs (Nan et al. 2016)",
    "log-pruning": "secateur lottery: nets in random ones (Orseau et al. 2020)",
}
CHANNEL_ALLOCATORS: Mapping[str, str] = {
    "uniform": "the same share at every site",
    "global": "the lowest scores of all sites",
    "knapsack": "the lowest scores per cost; for losses such as taylor's",
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
    "auto": "refit for method refit, else norms where pictures are given",
    "none": "weights stay as they are",
    "norms": "batch norms are corrected",
    "refit": "batch norms are corrected, readers solved by least squares",
}
PATTERNS: Mapping[str, str] = {
    "unstructured": "a share of each matrix, anywhere",
    "row": "the same share of every output row",
    "columns:UNIT": "whole groups of UNIT input columns",
    "heads+channels": "whole KV groups and FFN channels, removed",
    "query-heads+channels": "query heads and FFN channels, removed; K and V are kept",
    "kv-groups+channels": "as heads+channels, or an error where heads cannot be removed",
    "channels": "whole FFN channels, removed",
    "blocks": "whole transformer blocks, removed",
    "experts": "whole experts of a mixture, removed",
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
        "admm": Method("admm", {}, "unstructured", "mask and weights together, least layer loss (Meng et al. 2024)"),
        "flap": Method(
            "bias-compensation",
            {"score": "fluctuation"},
            "heads+channels",
            "inputs that vary least; mean becomes a bias (An et al. 2024)",
        ),
        "expert-norm": Method("drop-experts", {"by": "expert-norm"}, "experts", "experts of the smallest outputs"),
        "frequency": Method("drop-experts", {"by": "frequency"}, "experts", "experts that fewest tokens are sent to"),
        "fluctuation": Method("mask-only", {"score": "fluctuation"}, "heads+channels", "FLAP's score without the bias"),
        "magnitude": Method(
            "mask-only",
            {"score": "magnitude"},
            "unstructured",
            "smallest weights, no calibration (Han et al. 2015)",
        ),
        "refit": Method("refit", {"score": "wanda"}, "row", "any score, then exact least squares; slow"),
        "ria": Method(
            "mask-only",
            {"score": "ria"},
            "unstructured",
            "weights relative to row and column (Zhang et al. 2024)",
        ),
        "random": Method("mask-only", {"score": "random"}, "heads+channels", "random inputs: the baseline to beat"),
        "reap": Method("drop-experts", {}, "experts", "experts of least gate times output norm (Lasby et al. 2026)"),
        "shortgpt": Method("shortgpt", {}, "blocks", "whole blocks that change least (Men et al. 2024)"),
        "slimgpt": Method("slimgpt", {}, "heads+channels", "heads and FFN channels, with repair (Ling et al. 2024)"),
        "sparsegpt": Method(
            "sparsegpt", {}, "unstructured", "one sweep that repairs what is kept (Frantar & Alistarh 2023)"
        ),
        "taylor": Method(
            "mask-only",
            {"score": "taylor"},
            "heads+channels",
            "first-order change of the loss (Ma et al. 2023)",
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
