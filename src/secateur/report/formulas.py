"""docs/formulas.md: every formula, the paper it is from and the file it stands in, read off docstrings."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Formula", "formula_page", "formulas"]

_ROOT = Path(__file__).parents[1]
_FOLDERS = (
    "convnet",
    "score",
    "solve",
    "train",
    "allocate",
    "judged",
    "experts",
    "masks",
    "images",
    "deprune",
    "heads",
    "trees",
    "growth",
    "forest",
    "lottery",
)
_LINE = re.compile(r"Formula: (.+) \[(.+)\]$", re.MULTILINE)
_HEAD = """# Formulas

One formula stands in one place. If a paper changes one, change the file that its row names. This page is made from the
`Formula:` lines of docstrings: `python -m secateur.report.formulas > docs/formulas.md`.

W is `[out, in]`, and W_ij the weight from input j to output i. X_j is what input j holds over all calibration tokens,
and H the Gram matrix of the inputs. S is a score: low goes first. r is a ratio removed, and L the loss.

Experts: f_j is expert j, and g_j the gate that the router gives it for a token.

Heads: s is the model's score on a task. A gate multiplies a head's output.

Forests: T trees, and N the weight of all examples; m_i is the weight of one. Node h predicts v_h with the error e_h.
A split u saves g_u. A pair p is a feature group k and an example; it costs c_p. y and w are 1 for splits kept and pairs
paid. E is the error of the roots alone, lambda the trade-off, and b the part of a pair's cost that a tree bears.

Lotteries: a is the accuracy of a weight w, W the largest weight, and g the base of the K intervals. u and v are random
weights into and out of a neuron. p_k is the chance that a draw misses kind k; delta is a probability of failure. d_l is
the error of layer l's matrix, e_l that of its output, H_l a bound on its activations, and R the radius of the inputs.

| what | formula | from | file |
|---|---|---|---|
"""


class Formula(NamedTuple):
    """A class or function, its formula, the paper, and its file below src/secateur."""

    name: str
    text: str
    paper: str
    file: str


def formulas() -> list[Formula]:
    """Every formula of the scores, solvers, objectives, allocators, heads, forests and lotteries, by file."""
    return [
        formula for folder in _FOLDERS for path in sorted((_ROOT / folder).rglob("*.py")) for formula in _read(path)
    ]


def _read(path: Path) -> Iterator[Formula]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield from _own(node, node.name, path)
            for method in node.body:
                if isinstance(node, ast.ClassDef) and isinstance(method, ast.FunctionDef):
                    yield from _own(method, f"{node.name}.{method.name}", path)


def _own(node: ast.ClassDef | ast.FunctionDef, name: str, path: Path) -> Iterator[Formula]:
    for text, paper in _LINE.findall(ast.get_docstring(node) or ""):
        yield Formula(name, text, paper, path.relative_to(_ROOT).as_posix())


def formula_page() -> str:
    """The page as Markdown."""
    rows = (
        f"| {one.name} | `{one.text.replace('|', chr(92) + '|')}` | {one.paper} | src/secateur/{one.file} |"
        for one in formulas()
    )
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(formula_page())
