import pytest
import torch
from torch import nn

import secateur
from conftest import tiny_model
from secateur.core.errors import InputError
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.runtime import bitmask, two_four
from secateur.runtime.bitmask import Bitmask
from secateur.runtime.linear import SparseLinear, use_runtime_
from secateur.runtime.two_four import TwoFour


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 16), (2, 5, 16), (16,), (40, 16)])
def test_a_packed_layer_computes_what_the_dense_one_does(shape, bias, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(two_four, "runs_here", lambda: False)
    dense = nn.Linear(16, 24, bias=bias)
    dense.weight.data = dense.weight.data.bfloat16().float()
    dense.weight.data.view(24, 4, 4)[:, :, 1::2] = 0
    packed = SparseLinear(TwoFour.pack(dense.weight.detach()), dense.bias)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(packed(x), dense(x), atol=1e-5) and packed(x).shape == dense(x).shape
        assert packed(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(packed.weight.float(), dense.weight)


def test_a_pruned_folder_runs_packed_and_generates_the_same(saved, ids, tmp_path):
    prune(saved("llama"), Recipe(method="wanda", pattern="2:4", save_dtype="bfloat16"), tmp_path / "out", ids=ids)
    dense = secateur.load(tmp_path / "out", torch.float32)
    packed = secateur.load(tmp_path / "out", torch.float32, runtime="2:4")
    kinds = {type(module).__name__ for name, module in packed.named_modules() if name.endswith("_proj")}
    assert kinds == {"SparseLinear"}
    with torch.no_grad():
        assert torch.allclose(packed(ids[:2]).logits, dense(ids[:2]).logits, atol=1e-4)
    new = [model.generate(ids[:1, :4], max_new_tokens=6, do_sample=False) for model in (dense, packed)]
    assert torch.equal(*new)


def test_replacing_says_how_many_and_how_much(saved, ids, tmp_path):
    prune(saved("llama"), Recipe(method="magnitude", pattern="2:4"), tmp_path / "out")
    model = secateur.load(tmp_path / "out")
    told = use_runtime_(model)
    assert told.layers == 14 and told.packed_bytes == told.dense_bytes * 9 // 16


def test_models_without_2_of_4_and_other_runtimes_are_refused():
    with pytest.raises(InputError, match="no linear layer of the model is 2:4"):
        use_runtime_(tiny_model("llama"))
    with pytest.raises(InputError, match="runtime '4:8' is unknown"):
        use_runtime_(tiny_model("llama"), "4:8")


def test_without_a_compiler_a_note_says_so(saved, tmp_path, monkeypatch, caplog):
    prune(saved("llama"), Recipe(method="magnitude", pattern="2:4"), tmp_path / "out")
    monkeypatch.setattr(two_four, "library", lambda source, flags=(): None)
    monkeypatch.setattr(two_four, "runs_here", lambda: False)
    use_runtime_(secateur.load(tmp_path / "out"))
    assert "not faster" in caplog.text


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("shape", [(3, 18), (2, 5, 18), (40, 18)])
def test_a_layer_with_zeros_anywhere_computes_what_the_dense_one_does(shape, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(bitmask, "runs_here", lambda: False)
    dense = nn.Linear(18, 24)
    kept = torch.rand(24, 18, generator=torch.Generator().manual_seed(1)) > 0.6
    dense.weight.data = dense.weight.data.bfloat16().float() * kept
    packed = SparseLinear(Bitmask.pack(dense.weight.detach()), dense.bias)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(packed(x), dense(x), atol=1e-5) and packed(x).shape == dense(x).shape
    assert torch.equal(packed.weight.float(), dense.weight)


def test_a_model_with_zeros_runs_by_bitmasks_and_a_dense_one_is_refused(saved, ids, tmp_path):
    prune(saved("llama"), Recipe(method="wanda", ratio=0.6, save_dtype="bfloat16"), tmp_path / "out", ids=ids)
    dense = secateur.load(tmp_path / "out", torch.float32)
    packed = secateur.load(tmp_path / "out", torch.float32, runtime="bitmask")
    kinds = {type(module.packed).__name__ for module in packed.modules() if isinstance(module, SparseLinear)}
    assert kinds == {"Bitmask"}
    with torch.no_grad():
        assert torch.allclose(packed(ids[:1]).logits, dense(ids[:1]).logits, atol=1e-4)
    with pytest.raises(InputError, match="of zeros: prune it"):
        secateur.load(saved("llama"), runtime="bitmask")


def packings():
    kept = torch.rand(24, 16, generator=torch.Generator().manual_seed(1)) > 0.6
    weight = torch.randn(24, 16, generator=torch.Generator().manual_seed(2)).bfloat16().float()
    halved = weight.clone()
    halved.view(24, 4, 4)[:, :, 1::2] = 0
    return {"bitmask": (Bitmask.pack(weight * kept), weight * kept), "2:4": (TwoFour.pack(halved), halved)}


@pytest.mark.parametrize("kind", ["bitmask", "2:4"])
@pytest.mark.parametrize("vectors", [0, 1, 8, 9])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_cast_leaves_packed_values_alone(kind, vectors, dtype):
    packed, weight = packings()[kind]
    layer = SparseLinear(packed, torch.ones(24)).to(dtype)
    x = torch.randn(vectors, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = x.double() @ weight.double().T + 1
    assert layer(x).dtype == dtype and layer(x).shape == (vectors, 24)
    assert torch.allclose(layer(x).double(), expected, atol=0.2 if dtype.itemsize == 2 else 1e-4)


@pytest.mark.parametrize("kind", ["bitmask", "2:4"])
@pytest.mark.parametrize("width", [12, 20])
def test_another_width_is_refused(kind, width):
    packed, _ = packings()[kind]
    for vectors in (1, 9):
        with pytest.raises(InputError, match="16 inputs"):
            SparseLinear(packed, None)(torch.ones(vectors, width))
    for wrong in (torch.ones(1, width), torch.ones(9, 16), torch.ones(16)):
        with pytest.raises(InputError, match="vectors of 16"):
            packed.product(wrong)


@pytest.mark.parametrize("kind", ["bitmask", "2:4"])
def test_inputs_get_their_gradient(kind):
    packed, weight = packings()[kind]
    x = torch.ones(2, 16, requires_grad=True)
    SparseLinear(packed, None)(x).sum().backward()
    assert torch.allclose(x.grad, weight.sum(dim=0).expand(2, -1), atol=1e-4)
