import numpy as np
import pytest
import torch
from safetensors.torch import save_file as torch_save

from secateur.core.errors import InputError
from secateur.lottery.log_pruning import find_ticket
from secateur.lottery.plan import Lottery, plan_target
from secateur.lottery.target import Target
from secateur.lottery.ticket import load_masks, save_masks

RNG = np.random.default_rng(2)
TARGET = Target((RNG.normal(size=(4, 3)), RNG.normal(size=(2, 4))), (RNG.normal(size=4), RNG.normal(size=2)))
PLAN = plan_target(TARGET, Lottery(eps=0.3, delta=0.2))
TICKET = find_ticket(TARGET, PLAN, 3)


def dense_matrices(ticket, number):
    """The whole random layer and its masks, as the dense matrices nobody stores."""
    layer, mask = ticket.plan.layers[number], ticket.masks[number]
    matrices = []
    for stream, shape in zip(
        ticket.streams(number), ((layer.width, layer.inputs + 1), (layer.width, layer.outputs)), strict=True
    ):
        rows, columns = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
        fractions, signs = stream.draws(rows, columns)
        matrices.append((layer.law.sizes(fractions) * signs).reshape(shape))
    keep_in, keep_out = np.zeros(matrices[0].shape, dtype=bool), np.zeros(matrices[1].shape, dtype=bool)
    keep_in[mask.neurons, mask.sources] = True
    keep_out[np.repeat(mask.neurons, np.diff(mask.starts)), mask.outputs] = True
    return matrices[0] * keep_in, (matrices[1] * keep_out).T


def test_the_pruned_random_network_is_the_sparse_one_is_the_products():
    x = RNG.normal(size=(50, 3))
    hidden = x
    for number in range(2):
        into, out = dense_matrices(TICKET, number)
        hidden = np.maximum(hidden, 0) if number else hidden
        hidden = np.maximum(hidden @ into[:, :-1].T + into[:, -1], 0) @ out.T
    assert np.allclose(TICKET(x), hidden, atol=1e-12) and np.allclose(TICKET.product()(x), hidden, atol=1e-12)
    assert np.abs(hidden - TARGET(x)).max() > 1e-6  # an approximation, not a copy


def test_rows_are_run_some_at_a_time(monkeypatch):
    x = RNG.normal(size=(7, 3))
    whole = TICKET(x)
    monkeypatch.setattr("secateur.lottery.ticket._NUMBERS", 3 * max(len(mask.neurons) for mask in TICKET.masks))
    assert (TICKET(x) == whole).all() and TICKET(x[:0]).shape == (0, 2)


def test_the_product_is_an_ordinary_network_that_splits_signs_once():
    assert TICKET.product().sizes == [3, 6, 4, 2]
    plain = find_ticket(TARGET, plan_target(TARGET, Lottery(eps=0.3, signed=False)), 3)
    assert plain.product().sizes == [3, 4, 2]
    x = np.abs(RNG.normal(size=(20, 3)))
    assert np.allclose(plain(x), plain.product()(x), atol=1e-12)


def test_edges_are_counted():
    assert TICKET.edges == sum(len(mask.neurons) + len(mask.outputs) for mask in TICKET.masks)
    weights = sum(layer.weights for layer in PLAN.layers)
    assert TICKET.edges <= 4 * weights * max(layer.law.intervals for layer in PLAN.layers)


def test_masks_come_back_from_a_file(tmp_path):
    save_masks(TICKET.masks, tmp_path / "m.safetensors")
    for one, two in zip(load_masks(tmp_path / "m.safetensors", PLAN), TICKET.masks, strict=True):
        assert all((left == right).all() and left.dtype == right.dtype for left, right in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("neurons", lambda array: array + 10**9),
        ("neurons", lambda array: np.zeros_like(array)),
        ("sources", lambda array: array - 4),
        ("sources", lambda array: array[:-1]),
        ("outputs", lambda array: array + 4),
        ("starts", lambda array: array[::-1].copy()),
        ("starts", lambda array: array[:-1]),
        ("starts", lambda array: array[:, None]),
        ("starts", lambda array: array.astype(np.float32)),
        ("neurons", lambda array: array[:, None]),
        ("outputs", lambda array: array.astype(np.float32)),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path, name, change):
    broken = TICKET.masks[0]._replace(**{name: change(getattr(TICKET.masks[0], name))})
    save_masks((broken, TICKET.masks[1]), tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="masks of layer 0 in .* do not fit its plan"):
        load_masks(tmp_path / "m.safetensors", PLAN)


def test_masks_that_cannot_be_read_are_refused(tmp_path):
    save_masks(TICKET.masks[:1], tmp_path / "m.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"x")
    torch_save({"0.neurons": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "bf.safetensors")
    for name in ("m.safetensors", "x.safetensors", "none.safetensors", "bf.safetensors"):
        with pytest.raises(InputError, match="cannot be read"):
            load_masks(tmp_path / name, PLAN)
