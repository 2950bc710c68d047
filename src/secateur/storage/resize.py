"""Models whose blocks differ in size: the classes that build them, as Auto classes find them."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from secateur.adapt.structure import describe, kind_of, known_kinds

__all__ = ["ours", "shrinkable"]


def _resizing(config: PretrainedConfig) -> Callable[[PreTrainedModel], None] | None:
    """What makes a freshly built model as the config lists it; None where it lists nothing of its own."""
    kind = kind_of(config)
    if kind is None or not kind.lists_sizes(config):
        return None
    return lambda model: describe(model).resize_(config)


@cache
def shrinkable(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The same class, whose blocks may have sizes of their own; without such sizes it is unchanged."""
    if getattr(stock, "_secateur", False):
        return stock

    def __init__(self: Any, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        resize = _resizing(config)
        if resize is None:
            stock.__init__(self, config, *args, **kwargs)
            return
        plain = copy.copy(config)
        plain.__dict__.pop("_heterogeneity_spec", None)  # the stock class builds every block with the dense sizes
        stock.__init__(self, plain, *args, **kwargs)
        resize(self)
        config._attn_implementation = plain._attn_implementation
        self.config = config

    names = {"__module__": stock.__module__, "__qualname__": stock.__qualname__, "__doc__": stock.__doc__}
    return type(stock.__name__, (stock,), {"__init__": __init__, "_secateur": True, **names})


def ours(config_class: Any, found: Any) -> Any:
    """What an Auto class finds for a config: `shrinkable` classes where a table has its family."""
    if getattr(config_class, "model_type", None) not in known_kinds():
        return found
    if isinstance(found, tuple):
        return tuple(ours(config_class, one) for one in found)
    model = isinstance(found, type) and issubclass(found, PreTrainedModel)  # a mapping may be of tokenizers
    return shrinkable(found) if model and found.config_class is config_class else found
