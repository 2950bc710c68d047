import pytest
import torch
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from secateur.infer.products import Product, Products


def reads(parameters, run):
    found = []
    with Products(parameters, found.append) as mode:
        run()
    return found, mode.odd


@pytest.mark.parametrize(
    ("shape", "product", "turned"),
    [
        ((6, 4), lambda x, w: functional.linear(x, w), False),
        ((4, 6), lambda x, w: x @ w, True),
        ((4, 6), lambda x, w: torch.matmul(x, w), True),
        ((6, 4), lambda x, w: x @ w.T, False),
        ((4, 4), lambda x, w: functional.linear(x, w), False),
        ((4, 4), lambda x, w: x @ w, True),
        ((6, 4), lambda x, w: (w @ x.transpose(-1, -2)).transpose(-1, -2), False),
        ((4, 6), lambda x, w: torch.einsum("bth,ho->bto", x, w), True),
        ((4, 6), lambda x, w: torch.addmm(torch.zeros(6), x.reshape(-1, 4), w), True),
    ],
)
def test_every_spelling_of_a_product_is_one_matrix_and_what_it_reads(shape, product, turned):
    x, w = torch.randn(2, 3, 4), torch.randn(shape)
    (read,), odd = reads({"w": w}, lambda: product(x, w))
    assert read.product == Product("w") and read.turned is turned and not odd
    assert torch.equal(read.x.reshape(-1, 4), x.reshape(-1, 4))


def test_modules_show_and_layers_that_read_one_tensor_share_its_source():
    linear, turned = torch.nn.Linear(4, 4), Conv1D(6, 4)
    x = torch.randn(2, 3, 4)
    found, _ = reads({"a": linear.weight, "b": turned.weight}, lambda: (linear(x), turned(x), linear(x.clone())))
    assert [(read.product.parameter, read.turned) for read in found] == [("a", False), ("b", True), ("a", False)]
    assert found[0].source == found[1].source != found[2].source


def test_a_tensor_changed_in_place_is_another_source():
    linear, x = torch.nn.Linear(4, 4).requires_grad_(False), torch.randn(3, 4)

    def run():
        linear(x)
        x.add_(1.0)
        linear(x)

    first, second = reads({"a": linear.weight}, run)[0]
    assert first.source != second.source


def test_a_stack_is_one_product_for_each_matrix_and_rows_of_zeros_do_not_count():
    stack, x = torch.randn(3, 4, 6), torch.randn(3, 5, 4)
    x[1, 2:] = 0
    found, _ = reads({"w": stack}, lambda: torch.bmm(x, stack))
    assert [(read.product.number, read.turned, len(read.x)) for read in found] == [
        (0, True, 5),
        (1, True, 2),
        (2, True, 5),
    ]
    found, _ = reads({"w": stack}, lambda: functional.linear(x[0], stack[2].T))
    assert found[0].product == Product("w", 2) and found[0].turned


def test_what_is_no_matrix_is_named():
    w = torch.randn(2, 3, 4)
    found, odd = reads({"w": w}, lambda: torch.einsum("bt,tnd->bnd", torch.randn(5, 2), w))
    assert not found and odd == {"w"}
