"""docs/formulas.md: every formula, the paper it is from and the file it stands in, read off docstrings."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Formula", "formula_page", "formulas"]

_ROOT = Path(__file__).parents[1]
_FOLDERS = ("convnet", "score", "solve", "train", "allocate", "images")
_LINE = re.compile(r"Formula: (.+) \[(.+)\]$", re.MULTILINE)
_HEAD = """# Formulas

One formula stands in one place. If a paper changes one, change the file that its row names. This page is made from the
`Formula:` lines of docstrings: `python -m secateur.report.formulas > docs/formulas.md`.

W is `[out, in]`, and W_ij the weight from input j to output i. X_j is what input j holds over all calibration tokens,
and H the Gram matrix of the inputs. S is a score: low goes first. r is a ratio removed, and L the loss.

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
    """Every formula of the scores, solvers, objectives and allocators, by file."""
    return [formula for folder in _FOLDERS for path in sorted((_ROOT / folder).glob("*.py")) for formula in _read(path)]


def _read(path: Path) -> Iterator[Formula]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            for text, paper in _LINE.findall(ast.get_docstring(node) or ""):
                yield Formula(node.name, text, paper, path.relative_to(_ROOT).as_posix())


def formula_page() -> str:
    """The page as Markdown."""
    rows = (
        f"| {one.name} | `{one.text.replace('|', chr(92) + '|')}` | {one.paper} | src/secateur/{one.file} |"
        for one in formulas()
    )
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(formula_page())
