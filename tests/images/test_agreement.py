import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from convnet.networks import NETWORKS, made
from secateur.core.errors import DisagreementError, InputError
from secateur.images.agreement import verify_network
from secateur.images.pictures import Pictures
from secateur.images.prune import prune_channels_, prune_network
from secateur.images.recipe import NetworkRecipe
from secateur.storage.network import Network, Preprocessing, save_network

SMALL = Preprocessing(size=8)


def network(kind):
    return Network(made(kind), f"convnet.networks:{kind}", preprocessing=SMALL)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_repaired_network_computes_what_the_dense_one_does_with_its_weights(kind, tmp_path):
    pruned, pictures = network(kind), Pictures(torch.rand(20, 3, 8, 8), None)
    recipe = NetworkRecipe(method="refit", budget="0.8-params", least=0.05)
    done = prune_channels_(pruned.model, pruned.example, recipe, pictures)
    save_network(pruned.without(done.removal), tmp_path)
    done.cut.save(tmp_path / "cut.json")
    assert verify_network(network(kind), tmp_path, factory=NETWORKS[kind]) < 1e-5


def test_changed_weights_and_other_networks_are_found(tmp_path):
    prune_network(network("Residual"), tmp_path / "out", NetworkRecipe(method="l1", budget="0.7-params"))
    kind = NETWORKS["Residual"]
    with pytest.raises(InputError, match="no site"):
        verify_network(network("Plain"), tmp_path / "out", factory=kind)
    shutil.copytree(tmp_path / "out", tmp_path / "other")
    cut = json.loads((tmp_path / "out" / "cut.json").read_text())
    site = next(name for name, kept in cut.items() if len(kept) < 6)
    swapped = cut | {site: sorted(set(range(6)) - set(cut[site]))[: len(cut[site])]}
    (tmp_path / "other" / "cut.json").write_text(json.dumps(swapped))
    if len(swapped[site]) == len(cut[site]):  # other channels of the same number: the columns that are zero differ
        assert verify_network(network("Residual"), tmp_path / "other", factory=kind) < 1e-4
    assert load_file(tmp_path / "out" / "model.safetensors")


def test_a_difference_is_an_error(tmp_path):
    prune_network(network("Residual"), tmp_path / "out", NetworkRecipe(method="l1", budget="0.7-params"))
    with pytest.raises(DisagreementError, match="do not belong together"):
        verify_network(network("Residual"), tmp_path / "out", factory=NETWORKS["Residual"], tolerance=-1.0)
