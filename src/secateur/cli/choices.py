"""Options that take one of a table's names: checked before torch is imported, and completed by shells."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import typer

from secateur.cli.console import AMOUNT, MACHINE, OUTPUT, WHAT
from secateur.evaluate.choices import DTYPES, ENGINES
from secateur.export.formats import FORMATS
from secateur.registry import check_name
from secateur.run.methods import (
    ALLOCATORS,
    CHANNEL_ALLOCATORS,
    CHANNEL_METHODS,
    METHODS,
    PATTERNS,
    SAVE_DTYPES,
    check_pattern,
)

__all__ = ["AllocatorName", "DType", "Engines", "Format", "Method", "Pattern", "SaveDType", "one_of"]

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
        lambda: {**CHANNEL_METHODS.lines(), **METHODS.lines()},
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
    str,
    one_of(
        "engine",
        lambda: ENGINES,
        "torch, torch-bfloat16, onnxruntime or llama.cpp; several with commas between.",
        MACHINE,
        _check_engines,
    ),
]
Format = Annotated[str, one_of("format", lambda: FORMATS, "gguf, onnx, decilm (vLLM) or standalone.", OUTPUT)]
