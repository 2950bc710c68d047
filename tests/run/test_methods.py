import subprocess
import sys

import pytest

from secateur.core.errors import PatternError
from secateur.core.pattern import parse_pattern
from secateur.run.methods import (
    ALLOCATORS,
    METHODS,
    PATTERNS,
    SAVE_DTYPES,
    SCORES,
    SOLVERS,
    UNITS,
    check_pattern,
    usual_pattern,
)
from secateur.run.recipe import Recipe
from secateur.solve.slimgpt import SlimGPT


def test_the_tables_import_neither_torch_nor_transformers():
    script = (
        "import sys; from secateur.run.methods import METHODS, SCORES; assert METHODS.lines() and len(SCORES) > 5; "
        "assert 'wanda' in METHODS and METHODS.find('wanda').line; "
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("table", [SCORES, SOLVERS, ALLOCATORS], ids=lambda table: table.kind)
def test_a_rows_line_is_the_first_of_the_docstring(table):
    lines = table.lines()
    assert {name: make.__doc__.strip().splitlines()[0] for name, make in table.items()} == lines


def test_every_method_builds_with_its_defaults():
    for name in METHODS:
        assert Recipe(method=name, ratio=0.5).solver().name


def test_patterns_are_checked_by_name_before_they_are_built():
    assert UNITS.keys() < PATTERNS.keys() and "float16" in SAVE_DTYPES
    for name in ("row", "unstructured", "columns", "columns:64", "2:4"):
        check_pattern(name)
        assert parse_pattern(name)
    for name in (*UNITS, "blocks"):
        check_pattern(name)
    for name in ("", "chanels", "N:M", "columns:UNIT", "columns:x", "2:", "2:4:8"):
        with pytest.raises(PatternError, match="is unknown: (did you mean|known are)"):
            check_pattern(name)


def test_an_objects_usual_pattern_is_that_of_its_classs_method():
    assert usual_pattern(SlimGPT()) == METHODS["slimgpt"].pattern == "heads+channels"
    assert usual_pattern(object()) == "unstructured"
