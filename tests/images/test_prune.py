import json
import zipfile
from dataclasses import replace

import pytest
import torch

from convnet.networks import EXAMPLE, NETWORKS, made
from images.test_pictures import picture
from secateur.convnet.costs import costs
from secateur.convnet.structure import describe_channels
from secateur.core.errors import InputError, RatioError
from secateur.images.pictures import Pictures
from secateur.images.prune import gradients, prune_channels_, prune_network, top1
from secateur.images.recipe import NetworkRecipe
from secateur.storage.network import Network, Preprocessing, open_network

PICTURES = Pictures(torch.rand(12, 3, 8, 8), torch.arange(12) % 5)


@pytest.mark.parametrize("method", ["l1", "taylor", "refit", "fpgm"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_is_cut_to_its_budget(kind, method):
    model = made(kind)
    recipe = NetworkRecipe(method=method, budget="0.85-params", least=0.05)
    pruned = prune_channels_(model, EXAMPLE, recipe, PICTURES)
    params = sum(value.numel() for value in model.parameters())
    assert params == pruned.after.params <= 0.85 * pruned.before.params
    assert model(EXAMPLE).isfinite().all() and model(EXAMPLE).requires_grad


def test_inner_leaves_what_residual_additions_tie():
    pruned = prune_channels_(made("Residual"), EXAMPLE, NetworkRecipe(method="l1", sites="inner", budget="0.8-macs"))
    assert list(pruned.cut.kept) == ["first.0"]
    with pytest.raises(InputError, match="exempt names site 'wheel'"):
        prune_channels_(made("Residual"), EXAMPLE, NetworkRecipe(method="l1", exempt=("wheel",)))
    pruned = prune_channels_(
        made("Residual"), EXAMPLE, NetworkRecipe(method="l1", exempt=("first.0",), budget="0.8-macs")
    )
    assert list(pruned.cut.kept) == ["stem.0"]


def test_gradients_are_those_of_the_mean_loss():
    model = made("Residual")
    model.head.weight.requires_grad_(False)
    found = gradients(describe_channels(model, EXAMPLE), PICTURES)
    loss = torch.nn.functional.cross_entropy(model(PICTURES.pixels), PICTURES.classes)
    loss.backward()
    assert torch.allclose(found["first.0"], model.first[0].weight.grad.flatten(1), atol=1e-5)
    assert found["head"].shape == (5, 8) and not model.head.weight.requires_grad


def network():
    """A factory that a user might have."""
    return made("Gated")


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(10):
            archive.writestr(f"{number % 5}/{number}.png", picture(number * 20, 10, 8))
    return path


def test_a_folder_is_written_that_opens_again(tmp_path):
    small = Preprocessing(size=8)
    source = Network(network(), f"{__name__}:network", preprocessing=small)
    images = zipped(tmp_path / "images.zip")
    result = prune_network(source, tmp_path / "out", NetworkRecipe(budget="0.7-params"), images=images, test=images)
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result
    assert result["params"][1] <= 0.7 * result["params"][0] and result["tested"] == 10
    again = open_network(tmp_path / "out", factory=network)
    assert torch.equal(again.model(EXAMPLE), source.model(EXAMPLE)) and again.preprocessing == small
    second = prune_network(again, tmp_path / "twice", NetworkRecipe(method="l1", budget="0.8-params"))
    assert second["params"][0] == result["params"][1]
    assert torch.equal(open_network(tmp_path / "twice", factory=network).model(EXAMPLE), again.model(EXAMPLE))
    with pytest.raises(InputError, match="already exists"):
        prune_network(again, tmp_path / "out", NetworkRecipe(method="l1"))
    with pytest.raises(InputError, match="needs pictures"):
        prune_network(again, tmp_path / "other", NetworkRecipe(method="taylor"))
    assert not (tmp_path / "other").exists()


def test_accuracy_counts_and_refuses_classes_that_are_not_there():
    model = torch.nn.Flatten()
    pixels = torch.eye(4).reshape(4, 1, 2, 2)
    assert top1(model, Pictures(pixels, torch.tensor([0, 1, 2, 0]))) == 0.75
    with pytest.raises(InputError, match="class 7"):
        top1(model, Pictures(pixels, torch.tensor([0, 1, 2, 7])))
    with pytest.raises(InputError, match="needs classes"):
        top1(model, Pictures(pixels, None))


def test_a_budget_in_ms_follows_from_times_at_a_few_sizes(tmp_path, monkeypatch):
    """Times are those of a machine where half of the multiplications take half of the time."""
    seen, source = [], Network(network(), "x", preprocessing=Preprocessing(size=8))

    def timed(networks, rounds=15):
        seen.append([costs(describe_channels(one.model, one.example)).macs for one in networks])
        return [macs / seen[0][0] * 40 for macs in seen[0]]

    monkeypatch.setattr("secateur.images.prune.time_in_turns", timed)
    recipe = NetworkRecipe(method="l1", budget="30-ms", least=0.05)
    result = prune_network(source, tmp_path / "out", recipe)
    assert len(seen[0]) > 2 and len(result["ms_by_share"]) == len(seen[0])
    assert 0.7 < float(result["timed_budget"].removesuffix("-macs")) <= 0.7501
    assert result["macs"][1] <= 0.7501 * result["macs"][0] and result["recipe"]["budget"] == "30-ms"
    with pytest.raises(RatioError, match="2-ms is out of reach: 2.00 ms of 40.00"):
        prune_network(
            Network(network(), "x", preprocessing=Preprocessing(size=8)),
            tmp_path / "other",
            replace(recipe, budget="2-ms"),
        )
    assert not (tmp_path / "other").exists()
