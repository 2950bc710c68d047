import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from secateur.core.errors import InputError, ModelError
from secateur.lottery import run
from secateur.lottery.plan import Lottery, plan_sizes
from secateur.lottery.run import Draw, draw_lottery, load_ticket, open_target, read_inputs, width_table
from secateur.lottery.target import Target, read_target, write_target

RNG = np.random.default_rng(5)
TARGET = Target((RNG.normal(size=(5, 3)), RNG.normal(size=(2, 5))), (RNG.normal(size=5), RNG.normal(size=2)))


@pytest.fixture(autouse=True)
def few_accuracies(monkeypatch):
    monkeypatch.setattr(run, "ACCURACIES", (1e-1, 1e-2, 1e-3))


@pytest.mark.parametrize("law", ["hyperbolic", "uniform"])
def test_what_is_written_is_the_network_that_was_certified(tmp_path, law):
    write_target(TARGET, tmp_path / "t.safetensors")
    x = RNG.normal(size=(30, 3))
    np.save(tmp_path / "x.npy", x)
    lottery = Lottery(eps=0.05, law=law)
    draw = Draw(seed=3, inputs=tmp_path / "x.npy")
    found = draw_lottery(str(tmp_path / "t.safetensors"), lottery, tmp_path / "out", draw)
    assert found == json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert found["certificate"]["holds"] and found["predictions"]["rows"] == 30
    ticket, product = load_ticket(tmp_path / "out"), read_target(tmp_path / "out" / "product.safetensors")
    assert ticket.seed == 3 and np.allclose(ticket(x), product(x), atol=1e-12)
    inside = x / np.maximum(1, np.linalg.norm(x, axis=1, keepdims=True))
    assert np.linalg.norm(ticket(inside) - TARGET(inside), axis=1).max() <= found["certificate"]["bound"]
    assert sum(row["kept"] for row in found["layers"]) == sum(len(mask.neurons) for mask in ticket.masks)
    assert found["kept_factor"] <= found["reached_factor"] <= found["factor"]
    tensors = load_file(tmp_path / "out" / "masks.safetensors")
    assert not any(np.issubdtype(tensor.dtype, np.floating) for tensor in tensors.values())  # no weight is stored


def test_the_bundled_digits_predict_the_same(tmp_path):
    found = draw_lottery("bundled:digits-mlp", Lottery(), tmp_path / "out")
    assert found["predictions"]["same"] == found["predictions"]["rows"] == 360
    assert found["predictions"]["accuracy_before"] == found["predictions"]["accuracy_after"] > 0.85
    assert found["certificate"]["found"] <= found["certificate"]["bound"] <= 0.01


def test_seeds_are_tried_until_nothing_is_missing(tmp_path):
    write_target(TARGET, tmp_path / "t.safetensors")
    risky = Lottery(eps=0.05, delta=0.95, sampling="per-input")
    seen = {}
    for seed in range(20):
        found = draw_lottery(str(tmp_path / "t.safetensors"), risky, tmp_path / f"{seed}", Draw(seed=seed, tries=10))
        seen[found["tries"]] = found
        assert found["seed"] == seed + found["tries"] - 1
        assert found["certificate"]["missing"] == 0 or found["tries"] == 10
    assert len(seen) > 1


def test_widths_are_told_for_every_eps_with_their_fit():
    table = width_table(lambda asked: plan_sizes([4, 3, 2], asked), Lottery())
    assert table["eps"] == [1e-1, 1e-2, 1e-3] and table["fit"]["r2"] > 0.98
    assert all(len(line) == 3 for line in table["factors"].values())


def test_widths_beyond_what_numbers_hold_are_left_open():
    sizes, steep = [3, 3, 3, 3], 2e3  # layers of this norm
    table = width_table(lambda asked: plan_sizes(sizes, asked, matrix=steep), Lottery())
    assert table["factors"]["batch"][0] > 0 and None in table["factors"]["batch"] and table["fit"] is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((3, 4)), "hold float64 \\[3, 4\\]: the target takes numbers \\[rows, 3\\]"),
        (np.ones(3), "hold float64 \\[3\\]"),
        (np.full((2, 3), np.nan), "NaN"),
        (np.zeros((0, 3)), "no row"),
        (np.array([["a", "b", "c"]]), "hold <U1"),
        (np.array([[None, 1, 2]]), "cannot be read as .npy"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tmp_path, rows, message):
    np.save(tmp_path / "x.npy", rows, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        read_inputs(tmp_path / "x.npy", 3)


def test_inputs_that_are_no_array_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    (tmp_path / "x.npy").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="hold an archive"):
        read_inputs(tmp_path / "x.npz", 3)
    for name in ("x.npy", "none.npy"):
        with pytest.raises(InputError, match="cannot be read as .npy"):
            read_inputs(tmp_path / name, 3)


@pytest.mark.parametrize("name", ["none.safetensors", "bundled:other", "model.pt"])
def test_targets_that_are_none_are_refused_and_leave_nothing(tmp_path, name):
    with pytest.raises(ModelError, match="neither a .safetensors file nor bundled:digits-mlp"):
        open_target(name)
    with pytest.raises(ModelError):
        draw_lottery(name, Lottery(), tmp_path / "out")
    with pytest.raises(InputError, match="at least 1 try"):
        draw_lottery("bundled:digits-mlp", Lottery(), tmp_path / "out", Draw(tries=0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{}", '{"lottery": {"law": "x", "wrong": 1}, "seed": 0, "layers": []}', "["])
def test_a_certificate_that_is_none_is_refused(tmp_path, text):
    write_target(TARGET, tmp_path / "target.safetensors")
    (tmp_path / "certificate.json").write_text(text)
    with pytest.raises(InputError):
        load_ticket(tmp_path)
