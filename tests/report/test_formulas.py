from pathlib import Path

import pytest

from secateur.report.formulas import formula_page, formulas
from secateur.run.methods import ALLOCATORS, SCORES, SOLVERS

PAGE = Path(__file__).parents[2] / "docs" / "formulas.md"


def test_the_page_is_what_the_docstrings_say():
    assert PAGE.read_text() == formula_page(), "run: python -m secateur.report.formulas > docs/formulas.md"


@pytest.mark.parametrize("table", [SCORES, SOLVERS, ALLOCATORS])
def test_every_score_solver_and_allocator_has_a_formula_in_its_file(table):
    files = {formula.file for formula in formulas()}
    shared = {"owl.py", "dsa.py", "alpha.py"}
    for make in table.values():
        assert make.__module__.removeprefix("secateur.").replace(".", "/") + ".py" in files, make.__name__
    assert shared <= {Path(file).name for file in files}


def test_no_formula_stands_twice():
    texts = [formula.text for formula in formulas()]
    assert len(set(texts)) == len(texts)
