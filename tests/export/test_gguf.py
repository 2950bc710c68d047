import importlib.util

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from conftest import tiny_model
from secateur.adapt.source import load
from secateur.adapt.stacks import attentions
from secateur.core.cut import Cut
from secateur.core.document import read_document, write_document
from secateur.core.errors import InputError, ModelError
from secateur.export.gguf import write_gguf
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.surgery.heads import cut_heads_, head_sites, heads_config


def byte_tokenizer():
    letters = sorted(ByteLevel.alphabet())[:94]
    vocab = {letter: i for i, letter in enumerate(["</s>", "<s>", "ab", "abc", *letters])}
    tokenizer = Tokenizer(BPE(vocab, [("a", "b"), ("ab", "c")]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>")


@pytest.fixture
def shrunk(tmp_path, ids):
    tiny_model("llama").save_pretrained(tmp_path / "dense")
    byte_tokenizer().save_pretrained(tmp_path / "dense")
    recipe = Recipe(method="slimgpt", ratio=0.4, allocate="incremental", round_to=1)
    prune(tmp_path / "dense", recipe, tmp_path / "small", ids=ids)
    return tmp_path / "small"


def test_sizes_by_block_tokens_and_rotated_rows_are_in_the_file(shrunk, tmp_path):
    write_gguf(shrunk, tmp_path / "x.gguf")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    model = load(shrunk)
    field = {name: part.contents() for name, part in reader.fields.items()}
    layers = model.model.layers
    assert field["general.architecture"] == "deci"
    assert field["deci.feed_forward_length"] == [layer.mlp.up_proj.out_features for layer in layers]
    assert field["deci.attention.head_count"] == [layer.self_attn.q_proj.out_features // 8 for layer in layers]
    assert field["deci.attention.head_count_kv"] == [layer.self_attn.k_proj.out_features // 8 for layer in layers]
    assert field["tokenizer.ggml.tokens"][2:4] == ["ab", "abc"] and field["tokenizer.ggml.pre"] == "gpt-2"
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    down = layers[0].mlp.down_proj.weight.numpy()
    assert np.array_equal(tensors["blk.0.ffn_down.weight"], down) and "output.weight" not in tensors
    q = layers[1].self_attn.q_proj.weight.numpy()
    assert np.array_equal(tensors["blk.1.attn_q.weight"][:8:2], q[:4])  # halves become pairs
    assert np.array_equal(tensors["blk.1.attn_q.weight"][1:8:2], q[4:8])


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama-mqa"])
def test_what_llama_cpp_has_no_place_for_is_refused(family, saved, tmp_path):
    with pytest.raises(ModelError, match=r"Llama-type|no biases"):
        write_gguf(saved(family), tmp_path / "x.gguf")


def test_tokenizers_of_words_are_refused(saved, tmp_path):
    with pytest.raises(InputError, match="byte-level BPE"):
        write_gguf(saved("llama"), tmp_path / "x.gguf")


@pytest.mark.slow
def test_llama_cpp_gives_the_same_logits(tmp_path):
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("the llamacpp extra is not installed")
    from llama_cpp import Llama

    recipe = Recipe(method="magnitude", pattern="units", ratio=0.2, allocate="incremental")
    prune("bundled:smollm2", recipe, tmp_path / "small")
    write_gguf(tmp_path / "small", tmp_path / "small.gguf")
    float32 = 0  # of keys and values too: llama.cpp keeps them in 16 bits else
    engine = Llama(
        str(tmp_path / "small.gguf"), n_ctx=64, logits_all=True, verbose=False, type_k=float32, type_v=float32
    )
    tokens = engine.tokenize(b"The capital of France is a large city, founded by", add_bos=False)
    engine.eval(tokens)
    theirs = np.array(engine.scores[: len(tokens)])
    ours = load(tmp_path / "small")(torch.tensor([tokens])).logits[0].numpy()
    engine.close()
    assert np.abs(theirs - ours).max() < 0.05 and (theirs.argmax(1) == ours.argmax(1)).all()


def test_an_attention_without_heads_is_left_out_with_its_norm(shrunk, tmp_path):
    model = load(shrunk)
    sites = head_sites(attentions(model))
    cut_heads_(model, sites, Cut({sites[0].name: ()}))
    model.save_pretrained(tmp_path / "less")
    byte_tokenizer().save_pretrained(tmp_path / "less")
    config = heads_config(read_document(shrunk / "config.json"), model)
    write_document(tmp_path / "less" / "config.json", config)
    write_gguf(tmp_path / "less", tmp_path / "x.gguf")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    names = {tensor.name for tensor in reader.tensors}
    assert reader.fields["deci.attention.head_count"].contents()[0] == 0
    assert not {name for name in names if name.startswith("blk.0.attn")} and "blk.1.attn_norm.weight" in names
