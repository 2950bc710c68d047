import json

import pytest
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM

from secateur import Recipe, prune
from secateur.core.errors import CalibrationError, ModelError, RatioError, SecateurError
from secateur.experts.drop import mixtures
from secateur.storage.open_model import open_model
from secateur.storage.source import Source
from tiny_decoders import batch, tiny_decoder


class Without(TorchFunctionMode):
    """The dense model, whose routers never choose the experts that went."""

    def __init__(self, model, kept):
        super().__init__()
        self.routers = {}
        for name, stays in kept.items():
            place = name.rpartition(".")[0]
            gone = [number for number in range(4) if number not in stays]
            for leaf in ("gate", "router", "gate.wg"):
                try:
                    self.routers[id(model.get_submodule(f"{place}.{leaf}").weight)] = gone
                except AttributeError:
                    continue
            for key, value in [*model.named_buffers(), *model.named_parameters()]:
                if key.startswith(f"{place}.gate") and "bias" in key:
                    value.data[..., gone] = -1e9

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is functional.linear and id(args[1]) in self.routers:
            out[..., self.routers[id(args[1])]] = -1e9
        return out


@pytest.mark.parametrize("method", ["reap", "expert-norm", "frequency"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "hunyuan_v1_moe", "nemotron_h"])
def test_a_model_without_experts_is_the_dense_one_that_never_chooses_them(name, method, tmp_path):
    dense = tiny_decoder(name)
    dense.save_pretrained(tmp_path / "dense")
    result = prune(tmp_path / "dense", Recipe(method=method, ratio=0.25), tmp_path / "out", ids=batch(6))
    told = json.loads((tmp_path / "out" / "experts.json").read_text())
    assert all(len(kept) == 3 for kept in told["kept"].values()) and told["by"] == method
    smaller, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "mismatched_keys", "unexpected_keys"))
    assert result.removed_weights == dense.num_parameters() - smaller.num_parameters()
    with torch.no_grad(), Without(dense, told["kept"]):
        expected = dense(batch(), use_cache=False).logits
    assert torch.allclose(smaller(batch(), use_cache=False).logits, expected, atol=1e-4)
    for layer, scores in told["scores"].items():
        gone = {*range(4)} - {*told["kept"][layer]}
        assert max(scores[number] for number in gone) <= min(scores[number] for number in told["kept"][layer])


def test_masks_follow_in_a_second_run(tmp_path):
    tiny_decoder("mixtral").save_pretrained(tmp_path / "dense")
    prune(tmp_path / "dense", Recipe(method="reap", ratio=0.5), tmp_path / "half", ids=batch(4))
    result = prune(tmp_path / "half", Recipe(method="wanda", ratio=0.5), tmp_path / "both", ids=batch(4))
    assert abs(result.sparsity - 0.5) < 0.02
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "both").config.num_local_experts == 2


@pytest.mark.parametrize(
    ("name", "ratio", "said"),
    [
        ("gemma", 0.25, "has no experts behind transformers' common interface"),
        ("deepseek_v4", 0.25, "looks experts up by token"),
        ("mixtral", 0.75, "cannot route tokens among 1 experts"),
        ("mixtral", 0.1, "removes none of 4 experts"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(name, ratio, said, tmp_path):
    tiny_decoder(name).save_pretrained(tmp_path / "dense")
    with pytest.raises(SecateurError, match=said):
        prune(tmp_path / "dense", Recipe(method="reap", ratio=ratio), tmp_path / "out", ids=batch(4))
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_layers_with_other_numbers_of_experts_are_refused(tmp_path):
    tiny_decoder("mixtral").save_pretrained(tmp_path)
    opened = open_model(Source(tmp_path))
    assert len(mixtures(opened)) == 3
    mixtures(opened)[0].module.num_experts = 5
    with pytest.raises(ModelError, match="have 4 and 5 experts"):
        mixtures(opened)


def test_a_group_limit_that_leaves_a_token_too_few_experts_is_refused(tmp_path):
    config = tiny_decoder("deepseek_v3").config
    config.n_routed_experts, config.n_group, config.topk_group, config.num_experts_per_tok = 8, 2, 1, 3
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "dense")
    prune(tmp_path / "dense", Recipe(method="reap", ratio=0.25), tmp_path / "fits", ids=batch(6))
    with pytest.raises(RatioError, match="leaves 2 experts in each of 2 groups, a token may use 1 of the groups"):
        prune(tmp_path / "dense", Recipe(method="reap", ratio=0.5), tmp_path / "out", ids=batch(6))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["reap", "expert-norm", "frequency"])
def test_experts_whose_outputs_overflow_are_not_ranked(method, tmp_path):
    dense = tiny_decoder("mixtral")
    with torch.no_grad():
        dense.model.layers[1].mlp.experts.down_proj[2] = 3e38
    dense.save_pretrained(tmp_path / "dense")
    with pytest.raises(CalibrationError, match="hold NaN or inf"):
        prune(tmp_path / "dense", Recipe(method=method, ratio=0.25), tmp_path / "out", ids=batch(6))
    assert not (tmp_path / "out").exists()


def test_a_field_that_says_which_layers_have_experts_stays(tmp_path):
    config = tiny_decoder("jamba").config
    config.num_experts, config.expert_layer_period, config.expert_layer_offset = 4, 4, 1
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "dense")
    prune(tmp_path / "dense", Recipe(method="reap", ratio=0.25), tmp_path / "out", ids=batch(6))
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (told["num_experts"], told["expert_layer_period"]) == (3, 4)
