import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur.core.errors import ModelError, NumericalError
from secateur.storage.open_model import open_model
from secateur.storage.source import Source


def rewritten(folder, target, change):
    target.mkdir()
    (target / "config.json").write_text((folder / "config.json").read_text())
    save_file(change(load_file(folder / "model.safetensors")), target / "model.safetensors")
    return open_model(Source(target))


def test_parameters_are_there_only_while_loaded(saved):
    folder = saved("gpt2")
    opened = open_model(Source(folder))
    stored = load_file(folder / "model.safetensors")
    block = opened.structure.blocks[1]
    with opened.loaded(block.tensors()):
        assert all(torch.equal(tensor, stored[name]) for name, tensor in block.tensors().items())
    assert all(tensor.is_meta for tensor in opened.structure.model.parameters())
    outside = opened.outside_blocks()
    assert "transformer.wte.weight" in outside and not any(".h.0." in name for name in outside)


def test_names_without_the_body_prefix_are_found(saved, tmp_path):
    opened = rewritten(
        saved("gpt2"), tmp_path / "m", lambda t: {name.removeprefix("transformer."): v for name, v in t.items()}
    )
    name = "transformer.h.0.attn.c_attn.weight"
    assert opened.stored_name(name) == "h.0.attn.c_attn.weight"
    assert opened.model_name("h.0.attn.c_attn.weight") == name


def test_a_checkpoint_that_does_not_fit_is_refused(saved, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(ModelError, match=f"no tensor '{name}'"):
        rewritten(saved("llama"), tmp_path / "a", lambda t: {k: v for k, v in t.items() if k != name})
    with pytest.raises(ModelError, match=r"is \[3, 32\] in the checkpoint"):
        rewritten(saved("llama"), tmp_path / "b", lambda t: t | {name: torch.zeros(3, 32)})
    opened = rewritten(saved("llama"), tmp_path / "c", lambda t: t | {name: torch.full((48, 32), float("nan"))})
    with pytest.raises(NumericalError, match="NaN or inf"), opened.loaded([name]):
        pass
    opened = rewritten(saved("llama"), tmp_path / "d", lambda t: t | {name: torch.zeros(48, 32, dtype=torch.int8)})
    with pytest.raises(ModelError, match="floating-point"), opened.loaded([name]):
        pass


@pytest.mark.parametrize("name", ["transformer.ln_f.bias", "transformer.wpe.weight"])
def test_other_shapes_outside_the_blocks_are_refused_too(name, saved, tmp_path):
    with pytest.raises(ModelError, match=rf"{name} is \[1, "):
        rewritten(saved("gpt2"), tmp_path / "m", lambda t: t | {name: t[name][None].contiguous()})
