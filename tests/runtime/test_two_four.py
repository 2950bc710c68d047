import pytest
import torch

from secateur.core.errors import PatternError
from secateur.core.pattern import NM
from secateur.runtime import two_four
from secateur.runtime.two_four import TwoFour, dense_tiles, is_two_four, runs_here

AVX2 = ("-mno-avx512f",)
PLAIN = ("-mno-avx512f", "-mno-avx2", "-mno-fma")
SHAPES = [(1, 4), (16, 4), (17, 8), (15, 12), (33, 64), (576, 576), (48, 1536)]


def sparse(rows, columns, seed=0):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).bfloat16().float()
    return weight * NM().keep(weight.abs(), 0.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_and_unpacking_change_no_bit_and_take_9_of_16_bytes(shape):
    weight = sparse(*shape)
    packed = TwoFour.pack(weight)
    assert torch.equal(packed.unpack(), weight.bfloat16())
    whole = -(-shape[0] // 16) * 16 * shape[1]
    assert packed.bytes == whole * 2 * 9 // 16 and (packed.rows, packed.columns) == shape


@pytest.mark.parametrize("flags", [(), AVX2, PLAIN], ids=["here", "avx2", "plain"])
@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_is_that_of_the_unpacked_weight(shape, vectors, flags):
    if two_four.library(two_four.SOURCE, flags) is None:
        pytest.skip("no C++ compiler here, or not for this processor")
    weight = sparse(*shape)
    x = torch.randn(vectors, shape[1], generator=torch.Generator().manual_seed(1))
    found = TwoFour.pack(weight).product(x, flags)
    expected = x.double() @ weight.double().T
    scale = x.double().abs() @ weight.double().abs().T
    assert found.shape == expected.shape and ((found - expected).abs() <= 1e-6 * scale + 1e-30).all()


@pytest.mark.parametrize("kept", [0, 1])
def test_blocks_may_keep_fewer_than_two(kept):
    weight = sparse(20, 16)
    weight[3:9] = 0
    if kept:
        weight[4, 7] = weight[5, 0] = 2.0
    packed = TwoFour.pack(weight)
    assert torch.equal(packed.unpack(), weight.bfloat16())
    if runs_here():
        assert torch.allclose(packed.product(torch.eye(16)[:8]), weight.T[:8].contiguous())


def test_what_is_not_finite_passes_through():
    weight = sparse(16, 8)
    weight[2, :4] = torch.tensor([float("inf"), 0, 0, 1.0])
    weight[3, :4] = torch.tensor([0, float("nan"), 0, 1.0])
    packed = TwoFour.pack(weight)
    assert torch.equal(packed.unpack().isnan(), weight.isnan()) and packed.unpack()[2, 0] == float("inf")
    if runs_here():
        out = packed.product(torch.ones(1, 8))[0]
        assert out[2] == float("inf") and out[3].isnan() and out[4:].isfinite().all()


@pytest.mark.parametrize("shape", [(4, 6), (0, 4), (4, 0)])
def test_other_shapes_and_patterns_are_refused(shape):
    assert not is_two_four(torch.zeros(shape))
    with pytest.raises(PatternError, match="is not 2:4"):
        TwoFour.pack(torch.zeros(shape))
    with pytest.raises(PatternError, match=r"\[3, 8\] is not 2:4"):
        TwoFour.pack(torch.ones(3, 8))


def test_the_dense_loop_is_a_dense_product():
    if not runs_here():
        pytest.skip("no C++ compiler here")
    import ctypes

    weight, out = torch.randn(33, 64).bfloat16(), torch.empty(1, 33)
    x, tiles = torch.randn(1, 64), dense_tiles(weight)
    address = [ctypes.c_void_p(each.data_ptr()) for each in (tiles, x, out)]
    two_four.library(two_four.SOURCE).dense_product(*address, ctypes.c_int64(33), ctypes.c_int64(64), 1, 1)
    assert torch.allclose(out, x @ weight.float().T, atol=1e-4)
