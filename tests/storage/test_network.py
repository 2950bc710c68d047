import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from convnet.networks import EXAMPLE, NETWORKS, made
from secateur.convnet.structure import describe_channels
from secateur.core.cut import Cut
from secateur.core.errors import InputError, ModelError
from secateur.storage.network import Network, Preprocessing, Removal, open_network, save_network


def cut(kind):
    model = made(kind)
    structure = describe_channels(model, EXAMPLE)
    kept = Cut({site.name: tuple(range(0, site.count, 2)) for site in structure.sites})
    axes = {name: layer.axis for name, layer in structure.layers.items() if layer.axis is not None}
    removal = Removal(structure.slices(kept), axes, structure.attributes(kept))
    structure.shrink_(kept)
    return Network(model, f"convnet.networks:{kind}").without(removal)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_saved_network_opens_with_the_same_outputs(kind, tmp_path):
    network = cut(kind)
    save_network(network, tmp_path)
    again = open_network(tmp_path, factory=NETWORKS[kind])
    assert torch.equal(again.model(EXAMPLE), network.model(EXAMPLE)) and again.source == network.source
    named = open_network(tmp_path, factory=f"convnet.networks:{kind}")
    assert torch.equal(named.model(EXAMPLE), network.model(EXAMPLE))


def test_nothing_that_a_file_names_is_imported(tmp_path):
    save_network(cut("Residual"), tmp_path)
    document = json.loads((tmp_path / "network.json").read_text())
    document["source"] = "antigravity:fly"
    (tmp_path / "network.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="name it yourself with --factory antigravity:fly"):
        open_network(tmp_path)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "damaged"),
        ({"removals": [{"layers": {"head": {"rows": ["x"]}}, "attributes": {}}]}, "damaged"),
        ({"removals": [{"layers": {"head": {"wheel": [1]}}, "attributes": {}}]}, "damaged"),
        ({"removals": [{"layers": {"wheel": {"rows": [1]}}, "attributes": {}}]}, "another network"),
        ({"removals": [{"layers": {"head": {"rows": [99]}}, "attributes": {}}]}, "another network"),
        ({"removals": [{"layers": {}, "attributes": {"": {"forward": 3}}}]}, "another network"),
        ({"removals": [{"layers": {}, "attributes": {"": {"training": "x"}}}]}, "damaged"),
        ({"removals": []}, "belong to another network"),
        ({"preprocessing": {"size": 0, "mean": [0], "std": [1]}}, "damaged|size in"),
        ({"preprocessing": {"wheel": 0}}, "damaged"),
    ],
)
def test_damaged_documents_are_refused(change, words, tmp_path):
    save_network(cut("Residual"), tmp_path)
    document = json.loads((tmp_path / "network.json").read_text())
    (tmp_path / "network.json").write_text(json.dumps(document | change))
    with pytest.raises(InputError, match=words):
        open_network(tmp_path, factory=NETWORKS["Residual"])


def test_changed_weights_are_refused(tmp_path):
    save_network(cut("Residual"), tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(InputError, match="damaged"):
        open_network(tmp_path, factory=NETWORKS["Residual"])


def test_weights_come_from_a_file_that_holds_tensors_alone(tmp_path):
    state = made("Plain", seed=3).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        model = open_network("convnet.networks:Plain", weights=str(tmp_path / name)).model
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    torch.save(made("Plain"), tmp_path / "whole.pth")
    with pytest.raises(ModelError, match="cannot be read"):
        open_network("convnet.networks:Plain", weights=str(tmp_path / "whole.pth"))
    with pytest.raises(ModelError, match="no such file"):
        open_network("convnet.networks:Plain", weights=str(tmp_path / "none.pth"))
    with pytest.raises(ModelError, match="belong to another network"):
        open_network("convnet.networks:Residual", weights=str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("convnet.networks:Wheel", "cannot be built"),
        ("no_such_package:net", "not installed"),
        ("bundled:wheel", "unknown"),
        ("builtins:dict", "makes a dict"),
        ("wheel", "no network: give timm:NAME"),
    ],
)
def test_names_that_make_no_network_are_refused(name, words):
    with pytest.raises(ModelError, match=words):
        open_network(name, weights="none")


@pytest.mark.parametrize("fields", [{"size": 0}, {"crop": 0.0}, {"mean": (0.5, 0.5)}, {"std": (1.0, 1.0, 0.0)}])
def test_numbers_that_make_no_picture_are_refused(fields):
    with pytest.raises(InputError, match="pictures need"):
        Preprocessing(**fields)
