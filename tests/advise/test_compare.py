import json

import pytest

from conftest import run
from secateur.advise import compare as module
from secateur.advise.compare import compare, read_grid
from secateur.core.errors import InputError, SecateurError

GRID = """
model: {model}
methods: [magnitude, {{name: wanda, pattern: "row"}}, shortgpt]
ratios: [0.25, 0.5]
allocators: [uniform, incremental]
calibration: {{source: {text}, samples: 2, length: 16}}
"""


@pytest.fixture
def grid(saved, text, tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID.format(model=saved("llama"), text=text))
    return tmp_path / "grid.yaml"


def test_a_grid_is_every_method_ratio_and_allocator(grid):
    cells = read_grid(grid).cells
    assert len(cells) == 10 and cells[0].name == "magnitude-0.25-uniform"
    assert cells[7].name == "wanda-row-0.5-incremental" and cells[7].recipe.allocator == "incremental"


def test_every_cell_runs_once_refusals_are_told_and_the_page_holds_all(grid, tmp_path, monkeypatch, capsys):
    code, printed, err = run(monkeypatch, capsys, "compare", grid, "--out", tmp_path / "out")
    assert code == 0, err
    record = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert len(record["done"]) == 9 and all("shortgpt" in name for name in record["refused"])
    assert printed.count("refused: ") == 3 and "9 runs" in printed
    assert not list((tmp_path / "out").glob("*/*.safetensors"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(name in page for name in record["done"])
    monkeypatch.setattr(module, "prune", lambda *words, **named: pytest.fail("ran again"))
    assert compare(read_grid(grid), tmp_path / "out")["done"] == record["done"]


def test_an_interrupted_comparison_continues(grid, tmp_path, monkeypatch):
    real, seen = module.prune, []

    def stopped(model, recipe, out, **named):
        seen.append(out.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(model, recipe, out, **named)

    monkeypatch.setattr(module, "prune", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare(read_grid(grid), tmp_path / "out")
    told = compare(read_grid(grid), tmp_path / "out")
    assert len(told["done"]) == 9 and seen[2] == seen[3] and len(seen) == 11


def test_folders_of_something_else_are_left_alone(grid, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(InputError, match="holds no comparison"):
        compare(read_grid(grid), tmp_path / "mine")
    text = grid.read_text()
    grid.write_text(text.replace('[magnitude, {name: wanda, pattern: "row"}, shortgpt]', "[magnitude]"))
    compare(read_grid(grid), tmp_path / "out")
    grid.write_text(grid.read_text() + "round_to: 4\n")
    with pytest.raises(InputError, match="of another grid"):
        compare(read_grid(grid), tmp_path / "out")


NONE = (
    "[]",
    "model: m",
    "model: m\nmethods: [wanda]",
    "model: m\nmethods: [3]\nratios: [0.5]",
    "model: m\nmethods: [wnda]\nratios: [0.5]",
    "model: m\nmethods: [wanda, wanda]\nratios: [0.5]",
    "model: m\nmethods: [wanda]\nratios: [half]",
    "model: m\nmethods: [wanda]\nratios: [0.5]\nroundto: 3",
)


@pytest.mark.parametrize("text", NONE)
def test_grids_that_no_run_could_be_are_refused(text, tmp_path):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(SecateurError):
        read_grid(tmp_path / "grid.yaml")
