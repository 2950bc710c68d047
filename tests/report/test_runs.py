import json
import re

import pytest

from secateur import Recipe, prune
from secateur.calibrate.data import Calibration
from secateur.core.errors import InputError
from secateur.report.runs import RECORDS, read_run


@pytest.fixture
def pruned(saved, text, tmp_path):
    recipe = Recipe(
        method="slimgpt", ratio=0.4, round_to=1, calibration=Calibration(source=str(text), samples=2, length=16)
    )
    result = prune(saved("llama"), recipe, tmp_path / "small")
    return result


def test_a_pruned_model_is_told_by_pairs_layers_heads_and_recipe(pruned):
    run = read_run(pruned.out)
    pairs = {pair["label"]: (pair["before"], pair["after"]) for pair in run["pairs"]}
    assert pairs["parameters"] == pruned.parameters and run["kind"] == "pruning"
    assert pairs["held-out perplexity"][1] == pruned.held_out["after"]
    assert {layer["kind"] for layer in run["layers"]} == {"self_attn.o_proj", "mlp.down_proj"}
    assert {layer["block"] for layer in run["layers"]} == {"model.layers.0", "model.layers.1"}
    assert [(row["kept"], row["count"]) for row in run["heads"]] == [
        (kept, 2) for kept in json.loads((pruned.out / "cut.json").read_text()).values() if len(kept) <= 2
    ]
    assert "method: slimgpt" in run["recipe"] and "budget" not in run["recipe"]
    assert run["versions"]["torch"] and {fact["label"] for fact in run["facts"]} >= {"time", "peak memory"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seconds": float("nan")}, "time is 'nan'"),
        ({"seconds": -5}, "time is '-5'"),
        ({"peak_memory_mb": "x"}, "peak memory is 'x'"),
        ({"sparsity": 7}, "block weights removed is '700.0'"),
        ({"parameters": [-1, -5]}, "parameters before is '-1.0'"),
        ({"layers": "x"}, "is not what a run writes"),
        ({"layers": [{"name": "a.b", "sparsity": "q"}]}, "sparsity of layer a.b is 'q'"),
        ({"layers": [{"name": "a.b", "ratio": 1.5}]}, "ratio of layer a.b is '1.5'"),
        ({"held_out": {"before": "x", "after": 2}}, "is not what a run writes"),
        ({"candidates": {"a": "x"}}, "of a is 'x'"),
        ({"recipe": 5}, "is not what a run writes"),
    ],
    ids=str,
)
def test_figures_that_no_run_comes_to_are_refused(changes, said, pruned):
    path = pruned.out / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=re.escape(said)):
        read_run(pruned.out)


def test_every_kind_of_record_is_read(tmp_path):
    records = {
        "recover.json": {
            "model": "m",
            "text": "t",
            "before": 3.0,
            "after": 2.0,
            "training": {"steps": 3},
            "seconds": 1.0,
        },
        "heads.json": {
            "model": "m",
            "metric": "accuracy",
            "before": 0.9,
            "after": 0.8,
            "heads": 8,
            "heads_before": 12,
            "parameters": 10,
            "parameters_before": 20,
        },
        "curve.json": {"metric": "accuracy", "dense": 0.9, "ratios": [0.5], "lines": {"importance": [0.7]}},
        "importance.json": {"heads": [{"kind": "encoder", "layer": 0, "head": 0, "importance": 0.5}]},
        "ablation.json": {"heads": [{"kind": "encoder", "layer": 0, "head": 0, "change": -0.5}]},
        "forest.json": {
            "before": {"cost": 9.0, "error": 0.1, "nodes": 50},
            "cost": 4.0,
            "error": 0.2,
            "nodes": 20,
            "path": [{"cost": 1.0, "error": 0.4}],
            "use": {"a": 0.5, "b": 0.0},
        },
        "certificate.json": {
            "target": "t",
            "random_weights": 9,
            "certificate": {"eps": 0.1, "bound": 0.05, "found": 0.01},
            "layers": [{"inputs": 4, "outputs": 2, "width": 9, "reached": 8, "kept": 3}],
        },
        "finetune.json": {"accuracy": 0.9, "loss": 0.3},
        "result.json": {"network": "n", "macs": [2e6, 1e6], "params": [10, 5], "bytes": [40, 20], "sites": {"conv": 4}},
    }
    assert records.keys() == RECORDS.keys()
    told = {}
    for name, record in records.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(json.dumps(record))
        told[name] = read_run(tmp_path / name)
    assert [pair["label"] for pair in told["heads.json"]["pairs"]] == ["heads", "parameters", "accuracy"]
    assert told["curve.json"]["curves"][0]["lines"] == [{"name": "importance", "points": [[0.0, 0.9], [0.5, 0.7]]}]
    assert told["importance.json"]["scores"]["rows"] == [{"name": "encoder 0", "values": [0.5]}]
    assert told["ablation.json"]["scores"]["title"] == "change"
    assert told["forest.json"]["bars"][0]["rows"] == [{"name": "a", "value": 0.5}]
    assert [part["title"] for part in told["certificate.json"]["bars"]] == [
        f"Intermediate neurons {word}" for word in ("promised", "reached", "kept")
    ]
    assert told["result.json"]["pairs"][0] == {
        "label": "multiply-accumulates",
        "before": 2.0,
        "after": 1.0,
        "unit": "M",
        "better": "lower",
    }
    assert "command: recover" in told["recover.json"]["recipe"] and told["finetune.json"]["facts"]


@pytest.mark.parametrize("record", ["[]", '{"layers": 3}', '{"heads": {}}', "{"])
@pytest.mark.parametrize("name", ["result.json", "heads.json", "forest.json"])
def test_a_record_that_no_run_writes_is_refused(record, name, tmp_path):
    (tmp_path / name).write_text(record)
    with pytest.raises(InputError):
        read_run(tmp_path)


def test_a_folder_without_a_record_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="holds no record of a run"):
        read_run(tmp_path)
