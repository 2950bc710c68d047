import dataclasses
import importlib.util
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from sklearn.datasets import load_breast_cancer

from conftest import run, tiny_tokenizer
from images.test_pictures import picture
from secateur import (
    Calibration,
    DataOptions,
    Finetuning,
    RemovalOptions,
    finetune,
    load,
    load_recipe,
    open_task_model,
    prune,
    prune_heads,
)
from secateur.core.files import read_document
from tiny_decoders import tiny_decoder

ROOT = Path(__file__).parent.parent.parent


RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
ROWS = [path for path in RECIPES if isinstance(yaml.safe_load(path.read_text()), list)]
COMMANDS = [path for path in RECIPES if path not in ROWS and "command" in yaml.safe_load(path.read_text())]
PLAIN = [path for path in RECIPES if path not in (*ROWS, *COMMANDS)]


@pytest.mark.parametrize("recipe", ROWS, ids=lambda path: path.stem)
def test_every_row_of_recipes_runs_on_a_tiny_mixture_and_goes_on(recipe, text, monkeypatch, capsys, tmp_path):
    tiny_decoder("mixtral").save_pretrained(tmp_path / "mixture")
    tiny_tokenizer().save_pretrained(tmp_path / "mixture")
    first, last = yaml.safe_load(recipe.read_text())
    small = {"calibration": {"source": str(text), "samples": 2, "length": 16}}
    first |= small | {"model": str(tmp_path / "mixture"), "out": str(tmp_path / "fewer")}
    last |= small | {"model": first["out"], "out": str(tmp_path / "out")}
    (tmp_path / "rows.yaml").write_text(json.dumps([first, last]))
    code, _, err = run(monkeypatch, capsys, "run", tmp_path / "rows.yaml")
    assert code == 0 and "step 2 of 2" in err, err
    assert read_document(tmp_path / "out" / "config.json")["num_local_experts"] == 3
    assert read_document(tmp_path / "out" / "result.json")["recipe"]["pattern"] == "2:4"
    shutil.rmtree(tmp_path / "out")
    code, _, err = run(monkeypatch, capsys, "run", tmp_path / "rows.yaml", "--resume")
    assert code == 0 and "fewer is there: go on from it" in err and (tmp_path / "out").exists()
    code, _, err = run(monkeypatch, capsys, "run", tmp_path / "rows.yaml", "--resume")
    assert code == 0 and "out is there: go on from it" in err  # all is done
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "rows.yaml").write_text(json.dumps([first | {"ratio": 0.5}, last]))
    code, _, err = run(monkeypatch, capsys, "run", tmp_path / "rows.yaml", "--resume")
    assert code == 2 and "fewer was made by another recipe" in err


@pytest.mark.parametrize("recipe", PLAIN, ids=lambda path: path.stem)
def test_every_recipe_runs_on_a_tiny_model(recipe, saved, text, tmp_path):
    tiny = Calibration(source=str(text), samples=2, length=16)
    settings = dataclasses.replace(load_recipe(recipe), calibration=tiny, round_to=1)
    model = saved("llama")
    if recipe.stem.startswith("experts"):
        model = tmp_path / "mixture"
        tiny_decoder("mixtral").save_pretrained(model)
        tiny_tokenizer().save_pretrained(model)
    result = prune(model, settings, tmp_path / "out")
    if recipe.stem.startswith("experts"):  # the ratio counts experts, and the sparsity weights
        assert len(next(iter(read_document(tmp_path / "out" / "experts.json")["kept"].values()))) == 3
        return
    assert result.sparsity == pytest.approx(load_recipe(recipe).target(), abs=0.004)


@pytest.mark.parametrize("recipe", COMMANDS, ids=lambda path: path.stem)
def test_every_recipe_of_a_command_runs_on_small_files(
    recipe, saved, text, saved_task, labelled, monkeypatch, capsys, tmp_path
):
    small = {}
    if recipe.stem == "heads-40":
        small = {"model": str(saved_task("BertForSequenceClassification")), "data": str(labelled), "test": None}
    if recipe.stem == "maskllm-2-4":
        small = {"model": str(saved("llama")), "text": str(text), "steps": 2, "length": 16, "device": "cpu"}
    if recipe.stem == "deprune-lite0":
        with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
            archive.writestr("0/one.png", picture(90, 15, 13))
            archive.writestr("1/two.png", picture(30, 15, 13))
        small = {"model": "deprune.networks:mobile", "images": str(tmp_path / "pictures.zip")}
    if recipe.stem == "forest-budget":
        load_breast_cancer(as_frame=True).frame.iloc[:200, 20:].to_csv(tmp_path / "rows.csv", index=False)
        small = {"data": str(tmp_path / "rows.csv"), "target": "target"}
        fitted = ("fit", small["data"], "--target", "target", "--trees", 4, "--out", tmp_path / "grown")
        assert run(monkeypatch, capsys, "forest", *fitted)[0] == 0
        small |= {"model": str(tmp_path / "grown" / "model.skops"), "costs": None}
    settings = yaml.safe_load(recipe.read_text()) | small
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    code, _, err = run(monkeypatch, capsys, "run", tmp_path / "recipe.yaml", "--out", tmp_path / "out")
    assert code == 0 and len(list((tmp_path / "out").iterdir())) > 2, err


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


def test_the_heads_example_runs(saved_task, labelled, tmp_path):
    folder = saved_task("BertForSequenceClassification")
    script = [sys.executable, ROOT / "examples" / "heads.py", folder, labelled, tmp_path / "out"]
    done = subprocess.run(list(map(str, script)), capture_output=True, text=True, check=True)
    assert "6 of 12 heads left" in done.stdout and "parameters, logits [[" in done.stdout


def test_the_forest_example_runs():
    done = subprocess.run([sys.executable, ROOT / "examples" / "forest.py"], capture_output=True, text=True, check=True)
    assert "half: accuracy 0.9" in done.stdout and "measurements for" in done.stdout


def test_the_network_example_runs():
    script = [sys.executable, ROOT / "examples" / "network.py"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    dense, refitted, learned = (float(line.split(": ")[1][:5]) for line in done.stdout.splitlines())
    assert dense > 0.85 and refitted > 0.75 and learned > 0.65


def test_the_lottery_example_runs():
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "lottery.py"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("0.7 = ") and "random neurons" in done.stdout
    bound, found = (
        float(word) for word in done.stdout.split("error at most ")[1].split("\n")[0].split(" found")[0].split(", ")
    )
    assert found <= bound <= 0.01


def test_the_marian_reader_reads_what_was_written(tmp_path):
    """A file of one 8-bit matrix, stored transposed with its scale after it, and one of floats."""
    spec = importlib.util.spec_from_file_location("marian", ROOT / "examples" / "marian.py")
    marian = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(marian)
    items = {
        "W": (0x4101, (2, 3), struct.pack("<6bf", 1, 2, 3, 4, 5, 6, 2.0)),
        "b": (0x404, (1, 2), struct.pack("<2f", 0.5, -1.0)),
    }
    raw = struct.pack("<QQ", 1, len(items))
    for name, (kind, shape, data) in items.items():
        raw += struct.pack("<4Q", len(name) + 1, kind, len(shape), len(data))
    raw += b"".join(name.encode() + b"\0" for name in items)
    raw += b"".join(struct.pack("<2i", *shape) for _, shape, _ in items.values())
    raw += struct.pack("<Q", 3) + b"\0" * 3 + b"".join(data for _, _, data in items.values())
    (tmp_path / "model.bin").write_bytes(raw)
    found = marian.read_weights(tmp_path / "model.bin")
    assert found["W"].tolist() == [[0.5, 1.0], [1.5, 2.0], [2.5, 3.0]] and found["b"].tolist() == [[0.5, -1.0]]


def test_every_page_named_in_the_readme_exists():
    text = (ROOT / "README.md").read_text()
    names = [part.split(")")[0] for part in text.split("](")[1:]]
    assert names and all((ROOT / name.partition("#")[0]).exists() for name in names)


def test_the_notebook_runs_cell_by_cell_on_a_tiny_model(saved, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "examples" / "first_prune.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    tiny = f"Calibration(source={str(text)!r}, length=16, samples=4), round_to=1"
    script = "\n".join(cells).replace('"bundled:smollm2"', repr(str(saved("llama"))))
    exec(script.replace("Calibration(samples=4)", tiny), {})
    said = capsys.readouterr().out
    assert "removed," in said and "logits differ by at most" in said and (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_real_encoder_becomes_a_classifier_and_loses_a_third_of_its_heads(tmp_path):
    data = ROOT.parent / "shared" / "data" / "sst2"
    if not data.exists():
        pytest.skip("SST-2 is not at ../shared/data/sst2")
    plan = Finetuning(epochs=1.0)
    found = finetune("bundled:minilm", data / "train.tsv", tmp_path / "clf", plan, test=data / "dev.tsv")
    assert found["accuracy"] > 0.8
    files = (str(data / "train.tsv"), str(data / "dev.tsv"))
    settings = RemovalOptions(reestimate=True), DataOptions(samples=500)
    small = prune_heads(
        open_task_model(tmp_path / "clf"), files, tmp_path / "small", 1 / 3, settings[0], data_options=settings[1]
    )
    assert small["heads"] == 48 and small["after"] > small["before"] - 0.03
    assert load(tmp_path / "small").num_parameters() == small["parameters"]


@pytest.mark.slow
def test_the_demo_prints_its_table():
    done = subprocess.run([sys.executable, ROOT / "examples" / "demo.py"], capture_output=True, text=True, check=True)
    assert "sparsegpt" in done.stdout and "perplexity" in done.stdout
