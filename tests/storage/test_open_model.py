import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur.core.errors import ModelError, NumericalError
from secateur.storage.open_model import open_model
from secateur.storage.source import Source
from tiny_decoders import tiny_decoder


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


def test_stored_buffers_are_given_their_values(tmp_path):
    model = tiny_decoder("deepseek_v3")
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    model.get_buffer(name).copy_(torch.tensor([0.5, -3.0, 0.25, 9.0]))
    model.save_pretrained(tmp_path)
    opened = open_model(Source(tmp_path))
    block = opened.structure.blocks[1]
    with opened.loaded(block.tensors()):
        assert opened.structure.model.get_buffer(name).tolist() == [0.5, -3.0, 0.25, 9.0]
        assert torch.equal(opened.structure.model.get_parameter("model.layers.1.mlp.experts.down_proj"), _stack(model))


def _stack(model):
    return model.get_parameter("model.layers.1.mlp.experts.down_proj")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(EXPERT), "cannot be made of"),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if EXPERTS in name], "holds no"),
        (lambda tensors: tensors.update({EXPERT: torch.zeros(3, 5)}), "cannot be made of"),
        (lambda tensors: tensors.pop("model.layers.0.self_attn.q_proj.weight"), "holds no tensor"),
    ],
)
def test_a_checkpoint_whose_experts_do_not_fit_is_refused_in_a_sentence(change, said, tmp_path):
    tiny_decoder("mixtral").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert EXPERT in tensors
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=said):
        open_model(Source(tmp_path))


EXPERTS = "layers.1.block_sparse_moe.experts"
EXPERT = "model.layers.1.block_sparse_moe.experts.2.w1.weight"


def test_parameters_that_modules_share_are_loaded_for_all_of_them(tmp_path):
    tiny_decoder("zamba2").save_pretrained(tmp_path)
    opened = open_model(Source(tmp_path))
    with opened.loaded(opened.structure.blocks[3].tensors()):
        values = dict(opened.structure.blocks[3].module.named_parameters())
        assert all(value.device.type == "cpu" for value in values.values())
