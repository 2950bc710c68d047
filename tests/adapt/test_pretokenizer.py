import json

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from transformers import PreTrainedTokenizerFast

from secateur.adapt.pretokenizer import pretokenizer_name, set_pretokenizer_
from secateur.core.errors import InputError


def tokenizer(splitter):
    made = Tokenizer(BPE())
    made.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(tokenizer_object=made)


def pieces(made, text):
    return [piece for piece, _ in made.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("name", "text", "split"),
    [
        ("gpt-2", "a1234  b", ["a", "1234", "Ġ", "Ġb"]),
        ("smollm", "a1234  b", ["a", "1", "2", "3", "4", "Ġ", "Ġb"]),
        ("llama-bpe", "a1234  b", ["a", "123", "4", "Ġ", "Ġb"]),
        ("qwen2", "a1234  b", ["a", "1", "2", "3", "4", "Ġ", "Ġb"]),
        ("llama-bpe", "I'LL go\n\n x", ["I", "'LL", "Ġgo", "ĊĊ", "Ġx"]),
    ],
)
def test_names_split_as_llama_cpp_does_and_come_back(name, text, split):
    made = tokenizer(ByteLevel(add_prefix_space=False))
    set_pretokenizer_(made, name)
    assert pieces(made, text) == split
    assert pretokenizer_name(json.loads(made.backend_tokenizer.to_str())) == name


def test_unknown_names_and_other_tokenizers_are_left_alone():
    made = tokenizer(ByteLevel(add_prefix_space=False))
    before = made.backend_tokenizer.to_str()
    set_pretokenizer_(made, "no-such"), set_pretokenizer_(made, None)
    assert made.backend_tokenizer.to_str() == before
    words = tokenizer(Whitespace())
    set_pretokenizer_(words, "smollm")
    assert pieces(words, "a1 b") == ["a1", "b"]
    with pytest.raises(InputError, match="no name for"):
        pretokenizer_name(json.loads(words.backend_tokenizer.to_str()))
