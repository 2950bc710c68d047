import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from conftest import torchrun
from convnet.networks import EXAMPLE, NETWORKS, made
from images.test_pictures import picture
from secateur.core.errors import InputError
from secateur.images.train import NetworkTraining, train_network
from secateur.storage.network import Network, Preprocessing, open_network
from secateur.train.s2h import SoftToHardSettings

WIDTHS = SoftToHardSettings(target=0.6, divisor=1, mask_rate=0.2)
TRAINING = NetworkTraining(epochs=3, batch=8, rate=0.02, held=0.2, widths=WIDTHS)


def network(kind="Residual"):
    return Network(made(kind), f"convnet.networks:{kind}", preprocessing=Preprocessing(size=8))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(50):
            archive.writestr(f"{number % 5}/{number}.png", picture(40 * (number % 5) + number // 5, 10, 8))
    return path


def test_s2h_writes_a_small_network_that_opens_again(images, tmp_path):
    source = network()
    result = train_network(source, tmp_path / "out", TRAINING, images=images, test=images)
    assert result["macs"][1] <= 0.6 * result["macs"][0] and len(result["history"]) == 3
    assert json.loads((tmp_path / "out" / "result.json").read_text())["history"] == result["history"]
    assert all(len(row) == 3 for row in result["widths"].values()) and 0 <= result["top1"] <= 1
    again = open_network(tmp_path / "out", factory=NETWORKS["Residual"])
    assert torch.equal(again.model(EXAMPLE), source.model(EXAMPLE)) and not list(tmp_path.glob("*partial*"))


@pytest.mark.parametrize("method", ["s2h", "finetune"])
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(method, images, tmp_path):
    training = NetworkTraining(**{**vars(TRAINING), "method": method})
    whole = train_network(network(), tmp_path / "whole", training, images=images)

    class StoppedError(Exception):
        pass

    def stop(done, steps):
        if done == 7:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_network(network(), tmp_path / "out", training, images=images, progress=stop)
    with pytest.raises(InputError, match="add --resume"):
        train_network(network(), tmp_path / "out", training, images=images)
    resumed = train_network(network(), tmp_path / "out", training, images=images, resume=True)
    assert resumed["history"] == whole["history"]
    one, two = (open_network(tmp_path / name, factory=NETWORKS["Residual"]).model for name in ("whole", "out"))
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def pruned():
    """Both halves of the residual block have lost half of their weights."""
    own = network()
    with torch.no_grad():
        for part in (own.model.first[0], own.model.second[0]):
            part.weight[::2] = 0
    return own


def test_a_pruned_network_is_reconstructed_and_a_stopped_run_goes_on_with_the_same_bits(images, tmp_path):
    training = NetworkTraining(method="reconstruct", epochs=4, batch=8, held=0.1, rate=0.005)

    class StoppedError(Exception):
        pass

    def stop(done, steps):
        if done == steps:
            raise StoppedError

    whole = train_network(pruned(), tmp_path / "whole", training, images=images, teacher=network())
    assert all(after <= before for before, after in whole["parts"].values()) and whole["parts"]
    with pytest.raises(StoppedError):
        train_network(pruned(), tmp_path / "out", training, images=images, teacher=network(), progress=stop)
    other = network()
    other.model.head.bias.data += 1
    with pytest.raises(InputError, match="teacher"):
        train_network(pruned(), tmp_path / "out", training, images=images, teacher=other, resume=True)
    resumed = train_network(pruned(), tmp_path / "out", training, images=images, teacher=network(), resume=True)
    assert resumed["parts"] == whole["parts"] and resumed["history"] == whole["history"]
    one, two = (open_network(tmp_path / name, factory=NETWORKS["Residual"]).model for name in ("whole", "out"))
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert not one.first[0].weight[::2].any() and not torch.equal(one.first[0].weight, pruned().model.first[0].weight)


def test_reconstruction_needs_a_teacher_and_draws_few_pictures(images, tmp_path):
    training = NetworkTraining(method="reconstruct", batch=8)
    assert training.limit == 512 and training.peak == 0.001 and NetworkTraining().limit is None
    with pytest.raises(InputError, match="give --teacher"):
        train_network(pruned(), tmp_path / "out", training, images=images)
    assert not list(tmp_path.iterdir())


def test_finetuning_learns_from_classes_and_a_teacher(images, tmp_path):
    training = NetworkTraining(method="finetune", epochs=4, batch=8, rate=0.05, held=0.1)
    result = train_network(network("Plain"), tmp_path / "out", training, images=images, teacher=network("Plain"))
    assert result["history"][-1]["loss"] < result["history"][0]["loss"] and "macs" not in result


@pytest.mark.parametrize(
    "fields",
    [{"method": "wheel"}, {"epochs": 0}, {"batch": 0}, {"rate": 0.0}, {"held": 1.0}, {"teaching": 2.0}, {"samples": 1}],
)
def test_settings_outside_their_range_are_refused(fields):
    with pytest.raises(InputError):
        NetworkTraining(**fields)


PROGRAM = """
import sys
from images.test_train import network, TRAINING
from secateur.images.train import NetworkTraining, train_network
training = NetworkTraining(method="finetune", epochs=2, batch=8, rate=0.02, held=0.2)
train_network(network("Concatenated"), sys.argv[2], training, images=sys.argv[1])
"""


def test_two_processes_give_the_loss_curve_of_one(images, tmp_path):
    """Means of gradients over halves of a batch are those of the batch: the same up to rounding (no batch norms)."""
    script = tmp_path / "program_of_two.py"
    script.write_text(PROGRAM)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = torchrun(script, images, tmp_path / "two", PYTHONPATH=paths)
    assert done.returncode == 0, done.stderr[-2000:]
    training = NetworkTraining(method="finetune", epochs=2, batch=8, rate=0.02, held=0.2)
    train_network(network("Concatenated"), tmp_path / "one", training, images=images)
    kind = NETWORKS["Concatenated"]
    one, two = (open_network(tmp_path / name, factory=kind).model.state_dict() for name in ("one", "two"))
    assert all(torch.allclose(value, two[name], atol=1e-4) for name, value in one.items())
    assert not list(tmp_path.glob("two.rank1*"))


def test_pictures_without_classes_learn_from_the_teacher_alone(tmp_path):
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        for number in range(20):
            archive.writestr(f"picture{number}.png", picture(12 * number, 10, 8))
    settings = {**vars(TRAINING), "method": "finetune", "epochs": 1}
    with pytest.raises(InputError, match="needs classes"):
        train_network(network(), tmp_path / "a", NetworkTraining(**settings), images=tmp_path / "plain.zip")
    taught = NetworkTraining(**settings | {"teaching": 1.0, "norms": False})
    own = network()
    before = {name: value.clone() for name, value in own.model.named_buffers()}
    train_network(own, tmp_path / "b", taught, images=tmp_path / "plain.zip", teacher=network())
    assert all(torch.equal(value, before[name]) for name, value in own.model.named_buffers())
