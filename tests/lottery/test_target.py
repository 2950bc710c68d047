from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from secateur.core.errors import ModelError
from secateur.lottery.target import digits_target, read_digits, read_target, write_target


def small(seed=0, sizes=(3, 12, 4), dtype=torch.float64):
    torch.random.manual_seed(seed)
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair, dtype=dtype), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("sizes", [(3, 4), (3, 12, 4), (2, 3, 3, 3, 3, 3, 3, 2)])
def test_a_sequential_a_file_and_a_target_are_one(tmp_path, sizes):
    model = small(sizes=sizes)
    x = torch.randn(20, sizes[0], dtype=torch.float64)
    target = read_target(model)
    assert target.sizes == list(sizes)
    save_file({name: tensor.numpy() for name, tensor in model.state_dict().items()}, tmp_path / "torch.safetensors")
    write_target(target, tmp_path / "ours.safetensors")
    for one in (target, read_target(tmp_path / "torch.safetensors"), read_target(tmp_path / "ours.safetensors")):
        assert np.allclose(one(x.numpy()), model(x).detach().numpy())
    assert torch.allclose(target.to_sequential()(x), model(x))
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in read_file(tmp_path).items()})


def read_file(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "ours.safetensors")


def test_layers_come_in_natural_order_and_biases_may_lack(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {f"fc{number}.weight": rng.normal(size=(4, 4)).astype(np.float32) for number in (2, 10, 1)}
    tensors["fc10.bias"] = np.ones(4, dtype=np.float16)
    save_file(tensors, tmp_path / "t.safetensors")
    target = read_target(tmp_path / "t.safetensors")
    for number, name in enumerate(("fc1", "fc2", "fc10")):
        assert np.array_equal(target.weights[number], tensors[f"{name}.weight"])
        assert target.weights[number].dtype == target.biases[number].dtype == np.float64
    assert [bias.sum() for bias in target.biases] == [0, 0, 4]


GOOD = {"0.weight": np.ones((4, 3)), "2.weight": np.ones((2, 4))}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "found no tensor"),
        (GOOD | {"norm.scale": np.ones(3)}, "found \\['norm.scale'\\]"),
        (GOOD | {"2.weight": np.ones((2, 5))}, "2.weight of .* takes 5 inputs, the layer before gives 4"),
        (GOOD | {"0.bias": np.ones(3)}, "the bias of 0.weight .* is \\[3\\], the layer has 4 outputs"),
        (GOOD | {"0.weight": np.ones((4, 3, 3))}, "is float64 \\[4, 3, 3\\]: a layer is a float matrix"),
        (GOOD | {"0.weight": np.ones((4, 3), dtype=np.int64)}, "a layer is a float matrix"),
        (GOOD | {"0.weight": np.full((4, 3), np.nan)}, "holds NaN or infinite numbers"),
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "t.safetensors")
    with pytest.raises(ModelError, match=message):
        read_target(tmp_path / "t.safetensors")


def test_no_file_and_no_safetensors_are_refused(tmp_path):
    (tmp_path / "t.safetensors").write_bytes(b"nothing")
    for name in ("t.safetensors", "none.safetensors"):
        with pytest.raises(ModelError, match="cannot be read as safetensors"):
            read_target(tmp_path / name)


@pytest.mark.parametrize(
    "layers", [[], [nn.ReLU()], [nn.Linear(2, 2), nn.ReLU()], [nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2)]]
)
def test_another_sequential_is_refused(layers):
    with pytest.raises(ModelError, match="a target is Linear, ReLU, Linear"):
        read_target(nn.Sequential(*layers))


def test_the_bundled_network_reads_digits(monkeypatch, tmp_path):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    target, digits = digits_target(), read_digits()
    assert target.sizes == [64, 32, 10] and len(digits.test) == 360 and len(digits.train) == 1437
    assert np.linalg.norm(digits.test, axis=1) == pytest.approx(np.ones(360))
    assert (target(digits.test).argmax(1) == digits.test_labels).mean() > 0.88
    (file,) = tmp_path.iterdir()
    made = file.stat().st_mtime_ns
    assert digits_target().weights[0].tolist() == target.weights[0].tolist()
    assert file.stat().st_mtime_ns == made
