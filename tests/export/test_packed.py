import pytest
import torch

import secateur
from secateur.core.errors import InputError
from secateur.export.convert import convert
from secateur.run.prune import prune
from secateur.run.recipe import Recipe


@pytest.mark.parametrize("family", ["llama", "llama-mqa", "opt"])
def test_a_packed_folder_computes_what_the_pruned_one_does_in_fewer_bytes(family, saved, ids, tmp_path):
    recipe = Recipe(method="wanda", pattern="2:4", save_dtype="bfloat16")
    prune(saved(family), recipe, tmp_path / "out", ids=ids)
    convert(str(tmp_path / "out"), "packed", tmp_path / "packed")
    dense = secateur.load(tmp_path / "out", torch.float32)
    packed = secateur.load(tmp_path / "packed", torch.float32)
    assert any(type(module).__name__ == "SparseLinear" for module in packed.modules())
    with torch.no_grad():
        assert torch.allclose(packed(ids[:2]).logits, dense(ids[:2]).logits, atol=1e-4)
        assert torch.allclose(packed(ids[:1, :1]).logits, dense(ids[:1, :1]).logits, atol=1e-4)
    sizes = [(tmp_path / name).stat().st_size for name in ("out/model.safetensors", "packed/packed.safetensors")]
    assert sizes[1] < sizes[0]
    assert secateur.load(tmp_path / "packed").dtype == torch.bfloat16


def test_a_dense_model_is_not_packed(saved, tmp_path):
    with pytest.raises(InputError, match="no layer of the model is 2:4"):
        convert(str(saved("llama")), "packed", tmp_path / "packed")
    assert list(tmp_path.iterdir()) == []
