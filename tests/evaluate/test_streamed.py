import math

import pytest
from transformers import LlamaConfig, LlamaModel

from conftest import CONFIGS
from secateur.calibrate.stream import StreamSettings
from secateur.evaluate.perplexity import token_losses
from secateur.evaluate.streamed import streamed_perplexity
from secateur.storage.open_model import open_model
from secateur.storage.source import Source, load_model


def opened(folder):
    return open_model(Source(folder))


@pytest.mark.parametrize("family", CONFIGS)
def test_a_block_at_a_time_is_the_whole_model(family, saved, ids):
    weights = opened(saved(family))
    whole = math.exp(float(token_losses(load_model(Source(saved(family))), ids).double().mean()))
    assert streamed_perplexity(weights, ids) == pytest.approx(whole, rel=1e-4)
    assert streamed_perplexity(weights, ids, StreamSettings(batch_tokens=16)) == pytest.approx(whole, rel=1e-4)
    assert all(parameter.is_meta for parameter in weights.structure.model.parameters())


def test_what_has_no_head_has_no_perplexity(ids, tmp_path):
    LlamaModel(LlamaConfig(**CONFIGS["llama"] | dict(tie_word_embeddings=False))).save_pretrained(tmp_path)
    assert streamed_perplexity(opened(tmp_path), ids) is None
