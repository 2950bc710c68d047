"""How long a text a model can read, and which token ids it knows; both from its config."""

from typing import Any

from transformers import PretrainedConfig

from secateur.core.errors import InputError
from secateur.core.shapes import TokenIds

__all__ = ["check_ids", "check_length", "default_length", "max_length"]

_AFTER_PADDING = frozenset(  # the first position is the one after pad_token_id
    "camembert data2vec-text esm mpnet roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl xmod".split()
)
_TABLES = _AFTER_PADDING | frozenset(
    "albert bart bert blenderbot blenderbot-small deberta-v2 distilbert electra ernie gpt2 layoutlm marian mbart "
    "megatron-bert opt pegasus plbart rembert".split()
)


def max_length(config: PretrainedConfig) -> int | None:
    """The most tokens one sample may have where positions are a table; None where any length can be computed."""
    settings: Any = config
    computed = getattr(config, "position_embedding_type", "absolute") == "rotary"  # by ESM-2
    if config.model_type not in _TABLES or computed:
        return None
    if not getattr(config, "position_biased_input", True):  # DeBERTa v3 adds none to its inputs
        return None
    skipped = (settings.pad_token_id or 0) + 1 if config.model_type in _AFTER_PADDING else 0
    return int(settings.max_position_embeddings) - skipped


def default_length(config: PretrainedConfig, most: int = 1024) -> int:
    """`most` tokens, or as many as the model was made for where that is less."""
    text = config.get_text_config(decoder=True)
    made_for = max_length(config) or getattr(text, "max_position_embeddings", None) or most
    return max(2, min(most, int(made_for)))


def check_length(length: int, config: PretrainedConfig, what: str = "text") -> None:
    """Raise InputError where a sample of that many tokens is longer than the model's table of positions."""
    longest = max_length(config)
    if longest is not None and length > longest:
        raise InputError(
            f"{what}: samples of {length} tokens are longer than the {longest} positions of this "
            f"{config.model_type}: use a length of at most {longest}"
        )


def check_ids(ids: TokenIds, config: PretrainedConfig, what: str = "text") -> None:
    """Raise InputError on ids `[samples, length]` outside the vocabulary, or more of them than there are positions."""
    settings: Any = config.get_text_config(decoder=True)  # where a wrapper holds the text part's
    vocab = int(settings.vocab_size)
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab:
        wrong = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
        raise InputError(
            f"{what}: token id {wrong} is outside the model's vocabulary of {vocab}, 0 to {vocab - 1}: use the "
            "tokenizer the model was trained with"
        )
    check_length(ids.shape[-1], config, what)
