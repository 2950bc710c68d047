import pytest
import torch

from secateur.runtime import bitmask
from secateur.runtime.bitmask import Bitmask, runs_here

AVX2 = ("-mno-avx512f",)
TABLE = ("-mno-avx512vbmi2",)
PLAIN = ("-mno-avx512f", "-mno-avx2", "-mno-fma")
SHAPES = [(1, 1), (1, 4), (16, 3), (17, 8), (15, 13), (33, 64), (576, 577), (48, 1536)]


def sparse(rows, columns, share=0.6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw).bfloat16().float()
    return weight * (torch.rand(rows, columns, generator=draw) >= share)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_packing_and_unpacking_change_no_bit(shape, share):
    weight = sparse(*shape, share)
    packed = Bitmask.pack(weight)
    assert torch.equal(packed.unpack(), weight.bfloat16())
    tiles = -(-shape[0] // 16)
    kept = int((weight != 0).sum())
    assert packed.bytes == 2 * (kept + 16) + 2 * tiles * shape[1] + 8 * tiles
    assert (packed.rows, packed.columns) == shape


@pytest.mark.parametrize("flags", [(), TABLE, AVX2, PLAIN], ids=["here", "table", "avx2", "plain"])
@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_is_that_of_the_unpacked_weight(shape, vectors, flags):
    if bitmask.library(bitmask.SOURCE, flags) is None:
        pytest.skip("no C++ compiler here, or not for this processor")
    weight = sparse(*shape)
    x = torch.randn(vectors, shape[1], generator=torch.Generator().manual_seed(1))
    found = Bitmask.pack(weight).product(x, flags)
    expected = x.double() @ weight.double().T
    scale = x.double().abs() @ weight.double().abs().T
    assert found.shape == expected.shape and ((found - expected).abs() <= 2e-6 * scale + 1e-30).all()


def test_all_masks_of_a_tile_give_their_lanes():
    bits = torch.arange(1 << 16)
    weight = ((bits[None, :] >> torch.arange(16)[:, None]) & 1).float() * torch.arange(1, 17)[:, None]
    packed = Bitmask.pack(weight)
    assert torch.equal(packed.unpack().float(), weight)
    if runs_here():
        x = torch.rand(1, 1 << 16, generator=torch.Generator().manual_seed(2))
        assert torch.allclose(packed.product(x)[0], (weight @ x[0]), rtol=1e-4)


def test_what_is_not_finite_passes_through():
    weight = sparse(16, 8)
    weight[2, 0], weight[3, 1] = float("inf"), float("nan")
    packed = Bitmask.pack(weight)
    assert torch.equal(packed.unpack().isnan(), weight.isnan()) and packed.unpack()[2, 0] == float("inf")
