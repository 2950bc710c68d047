import pytest
import torch

from secateur.experts.worth import Worth
from secateur.infer.experts import is_experts
from tiny_decoders import batch, tiny_decoder


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "deepseek_v3", "nemotron_h"])
def test_sums_are_those_of_a_plain_loop_and_logits_do_not_change(name):
    model = tiny_decoder(name)
    module = next(module for module in model.modules() if is_experts(module))
    before = model(batch(), use_cache=False).logits
    worth, seen = Worth(4), []
    handles = [worth.watch(module), module.register_forward_pre_hook(lambda _, args: seen.append(args))]
    assert torch.equal(model(batch(), use_cache=False).logits, before)
    for handle in handles:
        handle.remove()
    ((x, chosen, gates),) = seen
    gated, tokens = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    for row in range(len(x)):
        for place in range(chosen.shape[1]):
            expert = int(chosen[row, place])
            out = module(x[row : row + 1], torch.tensor([[expert]]), torch.ones(1, 1))
            tokens[expert] += 1
            gated[expert] += abs(float(gates[row, place])) * float(out.double().norm())
    assert torch.equal(worth.tokens, tokens) and worth.seen == len(x) and worth.chosen == chosen.shape[1]
    assert torch.allclose(worth.gated, gated, rtol=1e-5)
