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
from secateur.adapt.structure import describe
from secateur.core.cut import Cut
from secateur.core.errors import InputError, ModelError
from secateur.core.files import read_document, write_document
from secateur.export.gguf import write_gguf
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.storage.source import Source, load, load_tokenizer, resolve
from secateur.surgery.heads import cut_heads_, head_sites

TEXTS = [
    "x=10\n  y = 2025",
    "def f(a, b):\n\treturn a**2 + b[0]\n",
    "  two  spaces\n\n\nand lines\r\n",
    "Привет, мир! 12345",
    "你好 世界 42。こんにちは",
    "مرحبا بالعالم ٣٤ नमस्ते १२३",
    "e=mc² ½ Ⅷ I'll don't 'S 1st",
    "emoji 😀👍🏽\u200d a\u00a0b\u2028c",
    "<|im_start|>user\nhi<|im_end|>",
]


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
    recipe = Recipe(method="slimgpt", ratio=0.4, allocator="incremental", round_to=1)
    prune(tmp_path / "dense", recipe, tmp_path / "small", ids=ids)
    return tmp_path / "small"


def test_sizes_by_block_tokens_and_rotated_rows_are_in_the_file(shrunk, tmp_path):
    write_gguf(Source(shrunk), tmp_path / "x.gguf")
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


@pytest.mark.parametrize(
    ("quantize", "bound"),
    [
        ("f32", 0.0),
        ("f16", 1e-3),
        ("bf16", 8e-3),
        ("q8_0", 8e-3),
        ("q5_1", 0.05),
        ("q5_0", 0.07),
        ("q4_1", 0.1),
        ("q4_0", 0.14),
    ],
)
def test_quantised_matrices_are_near_what_they_were(tmp_path, caplog, quantize, bound):
    tiny_model("llama").save_pretrained(tmp_path / "dense")
    byte_tokenizer().save_pretrained(tmp_path / "dense")
    write_gguf(Source(tmp_path / "dense"), tmp_path / "x.gguf", quantize)
    reader, model = gguf.GGUFReader(tmp_path / "x.gguf"), load(tmp_path / "dense")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["output_norm.weight"] == "F32" and kinds["blk.0.ffn_up.weight"] == quantize.upper()
    narrow = quantize.upper() if "f" in quantize else "F16"  # 48 columns are no whole number of blocks
    assert kinds["blk.1.ffn_down.weight"] == narrow
    assert ("2 of 20 tensors stay f16" in caplog.text) == (narrow != quantize.upper())
    stored = {tensor.name: tensor for tensor in reader.tensors}
    for name, layer in (
        ("blk.0.ffn_up.weight", model.model.layers[0].mlp.up_proj),
        ("token_embd.weight", model.model.embed_tokens),
    ):
        values = gguf.quants.dequantize(stored[name].data, stored[name].tensor_type)
        weight = layer.weight.float().numpy()
        groups = np.abs(weight).reshape(len(weight), -1, 32).max(2).repeat(32, 1)
        assert (np.abs(values - weight) <= bound * groups + 1e-7).all()


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama-mqa"])
def test_what_llama_cpp_has_no_place_for_is_refused(family, saved, tmp_path):
    with pytest.raises(ModelError, match=r"Llama-type|no biases"):
        write_gguf(Source(saved(family)), tmp_path / "x.gguf")


def test_tokenizers_of_words_are_refused(saved, tmp_path):
    with pytest.raises(InputError, match="byte-level BPE"):
        write_gguf(Source(saved("llama")), tmp_path / "x.gguf")


def without_attention(folder, out):
    """The model of `folder` less all heads of blocks 1 and 4, saved as `heads prune` does."""
    model = load(folder)
    sites = head_sites(describe(model).attentions)
    cut_heads_(describe(model), sites, Cut({sites[number].name: () for number in (1, 4)}))
    model.save_pretrained(out)
    load_tokenizer(Source(folder)).save_pretrained(out)
    write_document(out / "config.json", describe(model).config(read_document(folder / "config.json")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "quantize", "far"), [("cut", "f32", 1e-3), ("emptied", "f32", 1e-3), ("dense", "q8_0", 0.1)]
)
def test_llama_cpp_gives_the_same_logits(tmp_path, made, quantize, far):
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("the llamacpp extra is not installed")
    from llama_cpp import Llama

    small = resolve("bundled:smollm2") if made == "dense" else tmp_path / "small"
    if made == "emptied":
        without_attention(resolve("bundled:smollm2").folder, small)
    if made == "cut":
        prune(
            "bundled:smollm2",
            Recipe(method="magnitude", pattern="heads+channels", ratio=0.2, allocator="incremental"),
            small,
        )
    write_gguf(resolve(small), tmp_path / "small.gguf", quantize)
    float32 = 0  # of keys and values too: llama.cpp keeps them in 16 bits else
    engine = Llama(
        str(tmp_path / "small.gguf"), n_ctx=64, logits_all=True, verbose=False, type_k=float32, type_v=float32
    )
    tokenizer = load_tokenizer(resolve(small))
    for text in TEXTS:
        assert engine.tokenize(text.encode(), add_bos=False, special=True) == tokenizer(text).input_ids, text
    tokens = engine.tokenize(b"The capital of France is a large city, founded by", add_bos=False)
    engine.eval(tokens)
    theirs = np.array(engine.scores[: len(tokens)])
    ours = load(small, torch.float32)(torch.tensor([tokens])).logits[0].numpy()
    engine.close()
    distance = np.linalg.norm(theirs - ours) / np.linalg.norm(ours - ours.mean(1, keepdims=True))
    same = (theirs.argmax(1) == ours.argmax(1)).mean()
    assert distance < far and same >= (1 if quantize == "f32" else 0.8)  # a quantised model may decide a near tie


def test_an_attention_without_heads_is_left_out_with_its_norm(shrunk, tmp_path):
    model = load(shrunk)
    sites = head_sites(describe(model).attentions)
    cut_heads_(describe(model), sites, Cut({sites[0].name: ()}))
    model.save_pretrained(tmp_path / "less")
    byte_tokenizer().save_pretrained(tmp_path / "less")
    config = describe(model).config(read_document(shrunk / "config.json"))
    write_document(tmp_path / "less" / "config.json", config)
    write_gguf(Source(tmp_path / "less"), tmp_path / "x.gguf")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    names = {tensor.name for tensor in reader.tensors}
    assert reader.fields["deci.attention.head_count"].contents()[0] == 0
    assert not {name for name in names if name.startswith("blk.0.attn")} and "blk.1.attn_norm.weight" in names
