"""Options that take one of a table's names: checked before torch is imported, and completed by shells."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import typer

from secateur.evaluate.choices import DTYPES, ENGINES, HEAD_SCORES, PRUNING_DTYPES
from secateur.export.formats import FORMATS, QUANTIZATIONS
from secateur.registry import check_name
from secateur.run.methods import (
    ALLOCATORS,
    CHANNEL_ALLOCATORS,
    CHANNEL_METHODS,
    METHODS,
    NETWORK_METHODS,
    PATTERNS,
    SAVE_DTYPES,
    check_pattern,
)
from secateur.terminal.console import AMOUNT, MACHINE, OUTPUT, WHAT

__all__ = [
    "FOREST_GROWTHS",
    "FOREST_SOLVERS",
    "LAWS",
    "SAMPLINGS",
    "AllocatorName",
    "DType",
    "Engines",
    "ForestGrowth",
    "ForestSolver",
    "Format",
    "HeadScore",
    "Law",
    "Method",
    "Pattern",
    "Quantize",
    "Sampling",
    "PruningDType",
    "SaveDType",
    "one_of",
]

# Names of the two islands, whose own tables import numba and torch; a test keeps them equal.
FOREST_GROWTHS: Mapping[str, str] = {
    "none": "a forest as scikit-learn grows it",
    "static": "also on the features best for their cost; the best within the budget is taken",
    "frugal": "beside those, trees whose splits pay for features",
}
FOREST_SOLVERS: Mapping[str, str] = {
    "auto": "min_cut",
    "min_cut": "the exact optimum, by one minimum cut",
    "primal_dual": "the paper's own way, to the same optimum",
    "lp": "a linear program",
}
LAWS: Mapping[str, str] = {
    "hyperbolic": "products of weights fall into every interval equally often",
    "uniform": "plain weights, and sums of subsets of them",
}
SAMPLINGS: Mapping[str, str] = {
    "per-weight": "every weight has neurons of its own",
    "per-input": "the weights of an input share theirs",
    "batch": "a layer's weights share all",
}

Lines = Callable[[], Mapping[str, str]]


def one_of(kind: str, lines: Lines, text: str, panel: str, check: Callable[[str], None] | None = None) -> Any:
    """An option that takes one of the names that `lines` has, each with one line for people.

    check: what refuses other names, where they are not just those of the table.
    """

    def refuse_others(value: str | None) -> str | None:
        if value is not None:  # while a shell completes, click passes over a refusal
            check(value) if check else check_name(kind, value, lines())
        return value

    def complete(incomplete: str) -> Iterator[tuple[str, str]]:
        yield from ((name, line) for name, line in lines().items() if name.startswith(incomplete))

    return typer.Option(help=text, callback=refuse_others, autocompletion=complete, rich_help_panel=panel)


def _check_engines(names: str) -> None:
    for name in names.split(","):
        check_name("engine", name, ENGINES)


Method = Annotated[
    str | None,
    one_of(
        "method",
        lambda: {**CHANNEL_METHODS.lines(), **NETWORK_METHODS, **METHODS.lines()},
        "Pruning method; `secateur methods` lists them. Default is sparsegpt, or refit for networks.",
        WHAT,
    ),
]
Pattern = Annotated[
    str | None,
    one_of(
        "pattern",
        lambda: PATTERNS,
        "Shape of what is removed: unstructured, row, 2:4, heads+channels, ... Default is the method's own.",
        WHAT,
        check_pattern,
    ),
]
AllocatorName = Annotated[
    str,
    one_of(
        "allocator",
        lambda: {**CHANNEL_ALLOCATORS, **ALLOCATORS.lines()},
        "How ratios differ between layers: uniform, owl, knapsack, ...; uniform or global for networks.",
        AMOUNT,
    ),
]
DType = Annotated[
    str, one_of("dtype", lambda: DTYPES, "Compute in auto (float32 on a CPU), float32 or bfloat16.", MACHINE)
]
PruningDType = Annotated[
    str, one_of("dtype", lambda: PRUNING_DTYPES, "Compute in auto, float32, mixed or bfloat16.", MACHINE)
]
SaveDType = Annotated[
    str,
    one_of(
        "save_dtype",
        lambda: SAVE_DTYPES,
        "Write weights as float32, bfloat16 or float16. auto keeps the model's own type.",
        OUTPUT,
    ),
]
Engines = Annotated[
    str | None,
    one_of(
        "engine",
        lambda: ENGINES,
        "torch (the default), torch-bfloat16, onnxruntime, llama.cpp; of networks blocked and openvino too; "
        "several with commas between.",
        MACHINE,
        _check_engines,
    ),
]
Format = Annotated[str, one_of("format", lambda: FORMATS, "gguf, onnx, decilm (vLLM) or standalone.", OUTPUT)]
Quantize = Annotated[
    str,
    one_of("quantization", lambda: QUANTIZATIONS, "Of gguf: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0.", OUTPUT),
]
HeadScore = Annotated[str, one_of("score", lambda: HEAD_SCORES, "importance, magnitude, random or ablation.", WHAT)]
ForestSolver = Annotated[str, one_of("solver", lambda: FOREST_SOLVERS, "min_cut (auto), primal_dual or lp.", WHAT)]
ForestGrowth = Annotated[
    str, one_of("grow", lambda: FOREST_GROWTHS, "static or frugal grow for --budget; none as it is.", WHAT)
]
Law = Annotated[
    str, one_of("law", lambda: LAWS, "Random weights: hyperbolic, or uniform with subset sums.", "Random network")
]
Sampling = Annotated[
    str,
    one_of("sampling", lambda: SAMPLINGS, "Whose neurons are whose: per-weight, per-input, batch.", "Random network"),
]
