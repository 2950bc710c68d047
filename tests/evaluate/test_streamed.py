import math

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from conftest import CONFIGS
from secateur.adapt.adapter import Adapter
from secateur.storage.source import Source, load_model, skeleton
from secateur.calibrate.stream import StreamSettings
from secateur.evaluate.perplexity import token_losses
from secateur.evaluate.streamed import streamed_perplexity
from secateur.storage.shards import Checkpoint
from secateur.storage.weights import Weights


def opened(folder):
    return Weights(Checkpoint(folder), Adapter(skeleton(Source(folder))), torch.float32)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_block_at_a_time_is_the_whole_model(family, saved, ids):
    weights = opened(saved(family))
    whole = math.exp(float(token_losses(load_model(Source(saved(family))), ids).double().mean()))
    assert streamed_perplexity(weights, ids) == pytest.approx(whole, rel=1e-4)
    assert streamed_perplexity(weights, ids, StreamSettings(batch_tokens=16)) == pytest.approx(whole, rel=1e-4)
    assert all(parameter.is_meta for parameter in weights.adapter.model.parameters())


def test_what_has_no_head_has_no_perplexity(ids, tmp_path):
    LlamaModel(LlamaConfig(**CONFIGS["llama"] | dict(tie_word_embeddings=False))).save_pretrained(tmp_path)
    assert streamed_perplexity(opened(tmp_path), ids) is None
