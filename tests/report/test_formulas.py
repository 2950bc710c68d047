from pathlib import Path

import pytest

from secateur.report.formulas import formula_page, formulas
from secateur.run.methods import ALLOCATORS, SCORES, SOLVERS

SOURCE = Path(__file__).parents[2] / "src" / "secateur"
NO_FORMULA = {  # what these files do is no formula
    "forest/archive.py": "reads and writes .skops files",
    "growth/choose.py": "keeps the choices that none beats",
    "forest/kinds.py": "which estimators there are, and their trees",
    "forest/labels.py": "checks labels and weights of examples",
    "forest/lightgbm_xgboost.py": "reads and cuts dumps",
    "forest/pruner.py": "the estimator: it calls the program and the solvers",
    "forest/run.py": "what the commands do",
    "forest/table.py": "reads and writes tables and forests",
    "trees/tree_arrays.py": "trees as arrays",
    "heads/finetune.py": "what the command does",
    "heads/prune.py": "what the command does",
    "heads/report.py": "what the commands write",
    "heads/table.py": "rows, and correlations by SciPy",
    "heads/task_model.py": "opens a model",
    "lottery/log_pruning.py": "puts the parts together",
    "lottery/plan.py": "puts the bounds together",
    "lottery/run.py": "what the command does",
    "lottery/target.py": "reads and writes networks",
}
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


@pytest.mark.parametrize("folder", ["forest", "heads", "lottery"])
def test_every_other_file_has_a_formula_or_a_reason_to_have_none(folder):
    found = [path for path in (SOURCE / folder).rglob("*.py") if path.name != "__init__.py"]
    files = {path.relative_to(SOURCE).as_posix() for path in found}
    having = {formula.file for formula in formulas()}
    assert files - having == {file for file in NO_FORMULA if file.startswith(folder)}


def test_no_formula_stands_twice():
    texts = [formula.text for formula in formulas()]
    assert len(set(texts)) == len(texts)
