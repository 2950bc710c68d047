import json
import zipfile

import pytest
import torch
from transformers import ViTImageProcessorPil

import secateur
from conftest import run as in_process
from convnet.networks import EXAMPLE, made
from deprune.networks import mobile
from images.test_pictures import picture
from tiny_pictures import SIDE, tiny_pictures

FACTORY = "cli.test_images:factory"


def factory():
    """What a user has: a network, and how it wants its pictures."""
    model = made("Gated")
    model.default_cfg = {"input_size": (3, 8, 8)}
    return model


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *args: in_process(monkeypatch, capsys, *args)


@pytest.fixture
def pictures(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for number in range(10):
            archive.writestr(f"{number % 5}/{number}.png", picture(number * 20, 10, 8))
    return str(tmp_path / "pictures.zip")


def test_a_network_is_pruned_verified_evaluated_timed_and_loaded(run, pictures, tmp_path):
    out = str(tmp_path / "out")
    code, said, _ = run(
        "prune", FACTORY, "--budget", "0.6-params", "--images", pictures, "--test", pictures, "--out", out
    )
    assert code == 0 and "parameters before" in said and "top-1 on 10 pictures" in said
    assert f"next: secateur verify {FACTORY} {out}" in said
    code, said, _ = run("verify", FACTORY, out, "--factory", FACTORY, "--json")
    assert code == 0 and json.loads(said)["same"]
    code, said, _ = run("evaluate", out, "--factory", FACTORY, "--images", pictures, "--json")
    assert code == 0 and json.loads(said)["pictures"] == 10
    code, said, _ = run("bench", FACTORY, out, "--factory", FACTORY, "--json")
    assert code == 0 and json.loads(said)["torch batch 1"]["times_faster"] > 0
    code, said, _ = run("bench", FACTORY, out, "--factory", FACTORY)
    assert code == 0 and "pictures at once" in said and "times as fast" in said and "dense_ms" not in said
    small = secateur.load(out, factory=factory)
    assert (
        small(EXAMPLE).shape == (2, 5)
        and secateur.load(out, torch.float64, factory=factory).head.weight.dtype == torch.float64
    )
    code, _, said = run("evaluate", out, "--images", pictures)
    assert code == 2 and f"--factory {FACTORY}" in said


def test_a_recipe_prunes_a_network(run, pictures, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"command: prune\nmodel: {FACTORY}\nmethod: l1\nbudget: 0.7-macs\nround_to: 2\nout: {tmp_path}/out\n"
    )
    code, _, said = run("run", str(recipe))
    assert code == 0, said
    assert json.loads((tmp_path / "out" / "result.json").read_text())["recipe"]["multiple"] == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("prune", FACTORY, "--ratio", "0.5", "--out", "x"), "--ratio goes with --pattern"),
        (("prune", FACTORY, "--method", "wanda", "--out", "x"), "method 'wanda' is unknown"),
        (("prune", FACTORY, "--out", "x"), "needs pictures"),
        (("prune", FACTORY, "--pattern", "2:4", "--out", "x"), "needs pictures"),
        (
            ("prune", FACTORY, "--pattern", "channels", "--method", "magnitude", "--ratio", 0.5, "--out", "x"),
            "language",
        ),
        (("prune", FACTORY, "--pattern", "row", "--method", "magnitude", "--out", "x"), "missing ratio"),
        (("prune", FACTORY, "--method", "l1", "--allocator", "owl", "--out", "x"), "allocator 'owl' is unknown"),
        (("prune", FACTORY, "--method", "l1", "--budget", "1k-macs", "--out", "x"), "out of reach"),
        (("prune", "no.such:thing", "--method", "l1", "--out", "x"), "not installed"),
        (("prune", "bundled:smollm2", "--images", "x", "--ratio", 0.5, "--out", "x"), "should be a .txt"),
        (("evaluate", "bundled:smollm2", "--images", "x"), "does not classify pictures"),
        (("evaluate", FACTORY), "give --images"),
        (("evaluate", FACTORY, "--perplexity", "bundled"), "--perplexity is for language models"),
        (("export", FACTORY, "--to", "gguf", "--out", "x"), "written as onnx"),
        (("bench", "bundled:smollm2", "bundled:smollm2", "--engine", "openvino"), "openvino times networks"),
        (("bench", "bundled:smollm2", "bundled:smollm2", "--engine", "blocked"), "blocked times networks"),
        (("bench", FACTORY, FACTORY, "--layers"), "has no place beside --layers"),
        (("bench", FACTORY), "bench takes two models"),
        (("bench", FACTORY, "--layers", "--engine", "onnxruntime"), "timed in blocked or torch"),
        (("bench", FACTORY, "--layers"), "no depthwise convolution"),
        (("bench", "bundled:smollm2", "--layers"), "is no network"),
        (("prune", FACTORY, "--taps", "run", "--out", "x"), "--taps is of method deprune"),
        (("prune", FACTORY, "--method", "deprune", "--ratio", 0.5, "--out", "x"), "needs pictures"),
        (("prune", FACTORY, "--method", "deprune", "--out", "x"), "needs a budget in ms"),
        (("prune", FACTORY, "--method", "deprune", "--budget", "0.5-macs", "--out", "x"), "a budget in ms"),
        (("prune", FACTORY, "--method", "deprune", "--pattern", "2:4", "--out", "x"), "--pattern is not of deprune"),
        (("prune", FACTORY, "--method", "deprune", "--repair", "none", "--out", "x"), "--repair refit or norms"),
        (("prune", "bundled:smollm2", "--taps", "run", "--out", "x"), "--taps is for networks"),
    ],
)
def test_what_does_not_fit_is_refused(run, line, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, said = run(*line)
    assert code == 2 and words in said and not list(tmp_path.iterdir()), said


def test_folders_that_are_no_pair_differ(run, pictures, tmp_path):
    out = tmp_path / "out"
    run("prune", FACTORY, "--method", "l1", "--budget", "0.6-params", "--out", str(out))
    cut = json.loads((out / "cut.json").read_text())
    name = max(cut, key=lambda site: len(cut[site]))
    cut[name] = cut[name][1:]
    (out / "cut.json").write_text(json.dumps(cut))
    code, _, said = run("verify", FACTORY, str(out), "--factory", FACTORY)
    assert code == 2 and "come from another network" in said


def test_a_network_learns_widths_and_is_finetuned(run, pictures, tmp_path):
    out, again = str(tmp_path / "out"), str(tmp_path / "again")
    drawn = ("--images", pictures, "--test", pictures, "--epochs", 2, "--batch", 4)
    code, said, err = run("train", FACTORY, *drawn, "--target", "0.7-macs", "--round-to", 1, "--out", out)
    assert code == 0 and "MACs before" in said and "soft network" in said and "top-1 on 10 pictures" in said, err
    code, said, _ = run("train", out, "--factory", FACTORY, "--method", "finetune", *drawn, "--out", again, "--json")
    assert code == 0 and json.loads(said)["tested"] == 10
    for line, words in (
        (("train", FACTORY, *drawn, "--target", "5M-params", "--out", "x"), "share of the MACs"),
        (("train", FACTORY, *drawn, "--method", "wheel", "--out", "x"), "method 'wheel' is unknown"),
        (("train", "bundled:smollm2", *drawn, "--out", "x"), "--images is for networks that read pictures"),
        (("train", FACTORY, *drawn, "--out", out), "already exists"),
        (("train", FACTORY, *drawn, "--steps", 5, "--out", "x"), "--steps is for language models"),
        (("train", FACTORY, *drawn, "--method", "maskllm", "--out", "x"), "masks of a language model"),
    ):
        code, _, said = run(*line)
        assert code == 2 and words in said


def test_zeros_go_into_a_network(run, pictures, tmp_path):
    drawn = ("--images", pictures, "--test", pictures)
    code, said, err = run("prune", FACTORY, "--pattern", "row", "--ratio", 0.5, *drawn, "--out", tmp_path / "out")
    assert code == 0 and "zeros in" in said and "top-1 on 10" in said and "1 layers were left" in said, err
    small = secateur.load(tmp_path / "out", factory=factory)
    assert float((small.project.weight == 0).float().mean()) == 0.5


def test_taps_and_channels_go_layers_are_timed_and_zeros_stay_in_finetuning(run, pictures, tmp_path):
    name, out, table = "deprune.networks:mobile", str(tmp_path / "out"), str(tmp_path / "table.json")
    asked = ("--method", "deprune", "--ratio", 0.5, "--samples", 8, "--images", pictures, "--test", pictures)
    code, said, told = run("prune", name, *asked, "--out", out)
    assert code == 0 and "of the taps stay in 3 depthwise convolutions" in said and "next: secateur train" in said, told
    code, said, _ = run("bench", name, "--layers", "--engine", "torch", "--out", table)
    assert code == 0 and "times of" in said and json.loads((tmp_path / "table.json").read_text())["engine"] == "torch"
    code, said, told = run(
        "train", out, "--factory", name, "--method", "finetune", "--teacher", name, "--teaching", 1, "--keep-norms",
        "--epochs", 1, "--batch", 4, "--rate", 0.01, "--images", pictures, "--out", str(tmp_path / "healed"),
    )  # fmt: skip
    assert code == 0, told
    before, after = (secateur.load(folder, factory=mobile).state_dict() for folder in (out, tmp_path / "healed"))
    kernels = [key for key in before if key.endswith("depthwise.weight")]
    assert all(torch.equal(before[key] == 0, after[key] == 0) and (before[key] == 0).any() for key in kernels)
    assert not torch.equal(before[kernels[0]], after[kernels[0]])
    norms = [key for key in before if key.endswith("running_mean")]
    assert all(torch.equal(before[key], after[key]) for key in norms)
    code, said, told = run(
        "train", out, "--factory", name, "--method", "reconstruct", "--teacher", name, "--samples", 8, "--batch", 4,
        "--epochs", 2, "--images", pictures, "--out", str(tmp_path / "better"),
    )  # fmt: skip
    assert code == 0 and "relative error of" in said, told
    parts = json.loads((tmp_path / "better" / "result.json").read_text())["parts"]
    assert parts and all(after <= before for before, after in parts.values())


def test_a_transformer_of_pictures_is_pruned_and_measured(run, pictures, tmp_path):
    tiny_pictures("vit").save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path / "vit")
    model, out = str(tmp_path / "vit"), str(tmp_path / "out")
    code, said, err = run("prune", model, "--ratio", 0.5, "--images", pictures, "--samples", 4, "--out", out)
    assert code == 0 and "50.00% of" in said and f"evaluate {out} --images DIR" in said, err
    code, said, err = run("evaluate", out, "--images", pictures, "--json")
    assert code == 0 and json.loads(said)["pictures"] == 10, err
    code, _, err = run("evaluate", out, "--images", pictures, "--perplexity", "bundled")
    assert code == 2 and "does not go with --images" in err
