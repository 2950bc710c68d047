import pytest

from conftest import run, tiny_tokenizer
from secateur import Recipe, prune
from secateur.advise.dry_run import plan_run, product_speed
from secateur.calibrate.data import Calibration
from secateur.core.errors import SecateurError
from tiny_decoders import tiny_decoder


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "magnitude", "ratio": 0.5},
        {"method": "wanda", "pattern": "2:4"},
        {"method": "slimgpt", "ratio": 0.4, "round_to": 1, "allocator": "incremental"},
        {"method": "slimgpt", "ratio": 0.3, "round_to": 1, "pattern": "channels"},
    ],
)
def test_the_plan_says_what_the_run_does(settings, saved, text, tmp_path):
    recipe = Recipe(**settings, calibration=Calibration(source=str(text), samples=2, length=16))
    told = plan_run(saved("llama"), recipe)
    result = prune(saved("llama"), recipe, tmp_path / "out")
    assert told["removed_weights"] == pytest.approx(result.removed_weights, abs=4)
    assert told["parameters"] == list(result.parameters) and told["bytes"] == list(result.bytes)
    assert {layer["name"]: layer["ratio"] for layer in told["layers"]} == pytest.approx(
        {layer.name: layer.ratio for layer in result.layers}
    )
    assert told["calibration_tokens"] == result.calibration_tokens
    assert told["ratios_known"] and told["seconds"] >= 0 and told["memory_mb"] > 0


@pytest.mark.parametrize("settings", [{"method": "reap", "ratio": 0.3}, {"method": "shortgpt", "ratio": 0.4}])
def test_so_it_does_where_whole_parts_go(settings, text, tmp_path):
    tiny_decoder("mixtral").save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    recipe = Recipe(**settings, calibration=Calibration(source=str(text), samples=2, length=16))
    told = plan_run(tmp_path / "dense", recipe)
    result = prune(tmp_path / "dense", recipe, tmp_path / "out")
    assert told["removed_weights"] == result.removed_weights > 0
    assert told["parameters"] == list(result.parameters) and told["bytes"] == list(result.bytes)
    assert told["calibration_tokens"] == result.calibration_tokens


def test_an_allocator_that_reads_the_model_leaves_ratios_open(saved, text):
    drawn = Calibration(source=str(text), samples=2, length=16)
    assert not plan_run(saved("llama"), Recipe(ratio=0.5, allocator="owl", calibration=drawn))["ratios_known"]


def test_what_prune_refuses_the_plan_refuses(saved, text):
    with pytest.raises(SecateurError, match="every site keeps a unit"):
        plan_run(saved("llama"), Recipe(method="slimgpt", ratio=0.95, round_to=1))


def test_a_product_takes_time():
    assert 0 < product_speed(size=64) < 1e15


def test_the_command_writes_nothing(monkeypatch, capsys, saved, text, tmp_path):
    args = ("prune", saved("llama"), "--method", "slimgpt", "--ratio", 0.4, "--round-to", 1, "--calibration", text)
    args += ("--length", 16, "--out", tmp_path / "out", "--dry-run")
    code, printed, err = run(monkeypatch, capsys, *args)
    assert code == 0 and "nothing was written" in printed and "block weights in 2 blocks" in printed, err
    assert not list(tmp_path.iterdir())
    code, printed, _ = run(monkeypatch, capsys, *args, "--json")
    assert code == 0 and '"removed_weights"' in printed
