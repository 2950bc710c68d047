import pytest
import torch

from conftest import CONFIGS, tiny_model
from secateur.adapt.structure import describe
from secateur.core.cut import Cut
from secateur.core.errors import NumericalError
from secateur.surgery.shrink import shrink_
from secateur.surgery.verify import verify

IDS = torch.arange(3, 19)[None]


def shrunk(family):
    dense, small = describe(tiny_model(family)), describe(tiny_model(family))
    sites = dense.sites()
    cut = Cut({site.name: tuple(range(site.count - 1)) for site in sites})
    shrink_(small, sites, cut)
    return dense, small, sites, cut


@pytest.mark.parametrize("family", CONFIGS)
def test_a_shrunk_model_agrees(family):
    agreement = verify(*shrunk(family), IDS)
    assert agreement.logits < 1e-4 and len(agreement.blocks) == 2 and max(agreement.blocks) < 1e-4


def test_the_first_block_that_differs_is_named():
    dense, small, sites, cut = shrunk("llama")
    small.model.model.layers[1].self_attn.q_norm = None
    small.model.model.layers[1].input_layernorm.weight.data += 1
    with pytest.raises(NumericalError, match=r"model\.layers\.1 differs"):
        verify(dense, small, sites, cut, IDS)
