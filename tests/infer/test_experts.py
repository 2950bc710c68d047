import pytest
import torch

from secateur.infer.experts import expert_inputs, expert_output, is_experts
from tiny_decoders import tiny_decoder


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "nemotron_h", "aria_text", "qwen3_moe"])
def test_an_experts_output_is_what_its_layer_computes_where_all_tokens_go_to_it(name):
    model = tiny_decoder(name)
    module = next(module for module in model.modules() if is_experts(module))
    x = torch.randn(5, module.down_proj.shape[1 if not module.is_transposed else 2])
    chosen, weight = torch.full((5, 1), 2), torch.ones(5, 1)
    assert torch.allclose(module(x, chosen, weight), expert_output(module, x, 2), atol=1e-5)
    assert set(expert_inputs(module, x, 2)) <= {"gate_up_proj", "up_proj", "down_proj"}


def test_a_plain_layer_is_no_experts():
    assert not is_experts(torch.nn.Linear(3, 3))
