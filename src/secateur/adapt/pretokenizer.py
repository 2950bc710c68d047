"""How byte-level BPE tokenizers split text first, under llama.cpp's names: the same both ways."""

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split
from transformers import PreTrainedTokenizerBase

from secateur.core.errors import InputError

__all__ = ["pretokenizer_name", "set_pretokenizer_"]

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(numbers: str) -> PreTokenizer:
    from tokenizers import Regex

    parts = [Split(Regex(f"{_WORDS}|{numbers}|{_REST}"), "isolated"), ByteLevel(False, use_regex=False)]
    return Sequence(parts)


def _known() -> Mapping[str, PreTokenizer]:
    """Every pre-tokenizer known here, by the name llama.cpp gives it."""
    return {
        "gpt-2": ByteLevel(False),
        "smollm": Sequence([Digits(True), ByteLevel(False)]),
        "llama-bpe": _split(r"\p{N}{1,3}"),
        "qwen2": _split(r"\p{N}"),
    }


def set_pretokenizer_(tokenizer: PreTrainedTokenizerBase, name: str | None) -> None:
    """Let a byte-level tokenizer split text as llama.cpp does under this name; unknown names change nothing."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    known = _known().get(name or "")
    if known is not None and isinstance(backend, Tokenizer) and _is_byte_level(backend):
        backend.pre_tokenizer = known


def _is_byte_level(backend: Any) -> bool:
    return "ByteLevel" in json.dumps(json.loads(backend.to_str()).get("pre_tokenizer"))


def pretokenizer_name(document: Mapping[str, Any]) -> str:
    """llama.cpp's name of the pre-tokenizer in a tokenizer.json. Raises InputError when it is none known here."""
    own = _plain(document.get("pre_tokenizer"))
    for name, known in _known().items():
        backend: Any = Tokenizer.from_str('{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":[]}}')
        backend.pre_tokenizer = known
        if _plain(json.loads(backend.to_str())["pre_tokenizer"]) == own:
            return name
    raise InputError("the tokenizer splits text in a way llama.cpp has no name for that is known here")


def _plain(splitter: Any) -> Any:
    """What decides about ids: neither offsets nor a sequence of one."""
    if isinstance(splitter, dict):
        if splitter.get("type") == "Sequence" and len(splitter["pretokenizers"]) == 1:
            return _plain(splitter["pretokenizers"][0])
        return {key: _plain(value) for key, value in splitter.items() if key != "trim_offsets"}
    return [_plain(part) for part in splitter] if isinstance(splitter, list) else splitter
