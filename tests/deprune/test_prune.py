import json
import zipfile

import pytest
import torch

import secateur
from deprune.networks import SIDE, mobile, network, pixels
from images.test_pictures import picture
from secateur.core.compiled import library
from secateur.core.errors import InputError, RatioError
from secateur.deprune import prune as module
from secateur.deprune.prune import deprune_, prune_depthwise
from secateur.deprune.recipe import DepruneRecipe
from secateur.images.agreement import verify_network
from secateur.images.pictures import Pictures
from secateur.runtime import blocked
from secateur.runtime.blocked import make_program
from secateur.storage.network import open_network

needs_compiler = pytest.mark.skipif(library(blocked._SOURCE) is None, reason="no C++ compiler here")
PICTURES = Pictures(pixels(), None)


@pytest.fixture
def images(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for number in range(20):
            archive.writestr(f"{number % 5}/{number}.png", picture(number * 12, 15, 13))
    return tmp_path / "pictures.zip"


def runs_of(weight, run=16):
    return [part.flatten(1).any(dim=0) for part in weight.split(run)]


def test_runs_of_sixteen_keep_the_same_taps():
    own = network()
    done = deprune_(own, DepruneRecipe(ratio=0.5, pointwise="none"), PICTURES)
    for block, kept in zip(own.model.blocks, (4, 12, 4), strict=True):
        assert all(int(taps.sum()) == kept for taps in runs_of(block.depthwise.weight))
        name = next(name for name, module in own.model.named_modules() if module is block.depthwise)
        assert done.taps[name] == (kept * block.depthwise.out_channels, block.depthwise.weight.numel())
    assert not done.pruned.cut.kept and done.ms is None
    if library(blocked._SOURCE):
        assert make_program(own.model, own.example).taps == (4 * 4 + 12 * 3 + 4 * 5, 9 * 4 + 25 * 3 + 9 * 5)


@pytest.mark.parametrize("taps", ["balanced", "channel"])
def test_the_published_patterns_of_taps(taps):
    own = network()
    deprune_(own, DepruneRecipe(ratio=0.5, pointwise="none", taps=taps, refit=False), PICTURES)
    dense = network().model
    for block, whole in zip(own.model.blocks, dense.blocks, strict=True):
        weight, before = block.depthwise.weight.flatten(1), whole.depthwise.weight.flatten(1)
        kept = weight != 0
        assert torch.equal(weight[kept], before[kept])  # never another value
        assert int((~kept).sum()) == pytest.approx(0.5 * weight.numel(), abs=2)
        if taps == "balanced":
            counts = [int(part.sum()) for part in kept.split(32) if len(part) == 32]
            assert len(set(counts)) == 1


def test_repair_brings_the_outputs_back_and_beats_plain_zeros():
    with torch.no_grad():
        expected = network().model(pixels(seed=5))
    far = []
    for refit in (False, True):
        own = network()
        deprune_(own, DepruneRecipe(ratio=0.5, pointwise_ratio=0.25, refit=refit), PICTURES)
        with torch.no_grad():
            far.append(float((own.model(pixels(seed=5)) - expected).square().mean()))
    assert far[1] < 0.7 * far[0]


@pytest.mark.parametrize("pointwise", ["expanded", "projected"])
def test_channels_go_where_the_recipe_says(pointwise):
    own = network()
    done = deprune_(own, DepruneRecipe(ratio=0.5, pointwise=pointwise, taps="none"), PICTURES)
    shapes = [(block.expand[0].out_channels, block.project[0].out_channels) for block in own.model.blocks]
    assert shapes == ([(32, 16), (32, 24), (48, 24)] if pointwise == "expanded" else [(64, 16), (48, 16), (80, 16)])
    assert done.taps == {} and done.pruned.after.macs < done.pruned.before.macs


@needs_compiler
@pytest.mark.parametrize("taps", ["run", "balanced"])
def test_a_folder_opens_again_verifies_and_runs_in_blocks(taps, images, tmp_path):
    out = tmp_path / "out"
    recipe = DepruneRecipe(ratio=0.5, taps=taps, samples=16)
    result = prune_depthwise(network(), out, recipe, images=images, test=images)
    assert json.loads((out / "result.json").read_text())["taps"].keys() == result["taps"].keys() != set()
    assert result["tested"] == 20 and len(result["top1"]) == 2
    small = open_network(out, factory=mobile)
    x = torch.rand(4, 3, SIDE, SIDE)
    fast = secateur.load(out, factory=mobile, runtime="blocked")
    assert torch.allclose(fast(x), small.model(x), atol=1e-4)
    assert verify_network(network(), out, factory=mobile) < 1e-4


@needs_compiler
def test_a_budget_in_milliseconds_is_timed(images, tmp_path, monkeypatch):
    timed = []

    def turns(networks, engine):
        timed.append(len(make_program(networks[1].model, networks[1].example).data))
        return [2.0, 2.0 * timed[-1] / len(make_program(networks[0].model, networks[0].example).data)]

    monkeypatch.setattr(module, "time_in_turns", turns)
    recipe = DepruneRecipe(budget="0.9-ms", samples=16, measured=8)
    result = prune_depthwise(network(), tmp_path / "out", recipe, images=images)
    assert result["ms"][1] <= 0.9 * 2 * 1.02 and result["macs"][1] < result["macs"][0]


@needs_compiler
def test_one_bad_timing_leads_no_plan_astray(images, tmp_path, monkeypatch):
    seen = []

    def turns(networks, engine):
        sizes = [len(make_program(own.model, own.example).data) for own in networks]
        seen.append(sizes[1] / sizes[0])
        return [2.0, 20.0 if len(seen) == 1 else 2.0 * seen[-1]]

    monkeypatch.setattr(module, "time_in_turns", turns)
    recipe = DepruneRecipe(budget="0.9-ms", samples=16, measured=8, taps="none")
    result = prune_depthwise(network(), tmp_path / "out", recipe, images=images)
    assert result["ms"][1] == max(2 * own for own in seen[1:] if own <= 0.9 * 1.02)  # a tenth would be out of reach


def test_a_budget_that_no_network_meets_is_refused_and_nothing_is_left(images, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "time_in_turns", lambda networks, engine: [2.0, 1.95])
    recipe = DepruneRecipe(budget="0.9-ms", samples=16, measured=8, engine="torch")
    with pytest.raises(RatioError, match="was not met|out of reach"):
        prune_depthwise(network(), tmp_path / "out", recipe, images=images)
    assert not (tmp_path / "out").exists()


def test_pictures_are_needed_and_nothing_is_removed_by_a_ratio_of_none(tmp_path):
    with pytest.raises(InputError, match="needs pictures"):
        prune_depthwise(network(), tmp_path / "out", DepruneRecipe(ratio=0.5), images=None)
    own = network()
    expected = own.model(own.example)
    done = deprune_(own, DepruneRecipe(ratio=0.0), PICTURES)
    assert done.taps == {} and torch.allclose(own.model(own.example), expected, atol=1e-4)


def test_every_tap_but_one_goes(tmp_path):
    own = network()
    deprune_(own, DepruneRecipe(ratio=0.99, pointwise="none"), PICTURES)
    assert all(int(taps.sum()) == 1 for block in own.model.blocks for taps in runs_of(block.depthwise.weight))
    assert own.model(own.example).isfinite().all()
