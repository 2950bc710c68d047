import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from secateur import Calibration, load_recipe, prune

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_runs_on_a_tiny_model(recipe, saved, text, tmp_path):
    tiny = Calibration(source=str(text), samples=2, length=16)
    settings = dataclasses.replace(load_recipe(recipe), calibration=tiny, round_to=1)
    result = prune(saved("llama"), settings, tmp_path / "out")
    assert result.sparsity == pytest.approx(load_recipe(recipe).target(), abs=0.004)


def test_the_two_four_example_runs(saved, text, tmp_path):
    script = [sys.executable, ROOT / "examples" / "two_four.py", saved("llama"), text, tmp_path / "out"]
    done = subprocess.run(list(map(str, script)), capture_output=True, text=True, check=True)
    assert "sparsity 50.00%" in done.stdout


def test_the_shrink_example_runs(saved, text, tmp_path):
    script = [sys.executable, ROOT / "examples" / "shrink.py", saved("llama"), text, tmp_path / "out"]
    done = subprocess.run(list(map(str, script)), capture_output=True, text=True, check=True)
    assert "of the block weights are gone" in done.stdout and "[[3, 4, 5, " in done.stdout


def test_the_search_example_runs(saved, text, tmp_path):
    script = [sys.executable, ROOT / "examples" / "search.py", saved("llama"), text, tmp_path / "out"]
    done = subprocess.run(list(map(str, script)), capture_output=True, text=True, check=True)
    assert "uniform: perplexity" in done.stdout and "searched: perplexity" in done.stdout


def test_every_page_named_in_the_readme_exists():
    text = (ROOT / "README.md").read_text()
    names = [part.split(")")[0] for part in text.split("](")[1:]]
    assert names and all((ROOT / name).exists() for name in names)


@pytest.mark.slow
def test_the_demo_prints_its_table():
    done = subprocess.run([sys.executable, ROOT / "examples" / "demo.py"], capture_output=True, text=True, check=True)
    assert "sparsegpt" in done.stdout and "perplexity" in done.stdout
