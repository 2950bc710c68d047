"""Models whose blocks differ in size: the classes that build them, and the Auto classes that find those."""

import copy
from collections.abc import Callable
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from secateur.adapt.structure import describe, kind_of, known_kinds

__all__ = ["register", "shrinkable"]


def _resizing(config: PretrainedConfig) -> Callable[[PreTrainedModel], None] | None:
    """What makes a freshly built model as the config lists it; None where it lists nothing of its own."""
    kind = kind_of(config)
    if kind is None or not kind.lists_sizes(config):
        return None
    return lambda model: describe(model).resize_(config)


def shrinkable(stock: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The same class, whose blocks may have sizes of their own; without such sizes it is unchanged."""

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


def register() -> None:
    """Let transformers' Auto classes load models whose blocks differ in size, for every family of the tables."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    every = [auto for name, auto in vars(modeling_auto).items() if name.startswith("AutoModel")]
    for name in (name for name in known_kinds() if name in CONFIG_MAPPING):  # a package may bring a class later
        config_class = CONFIG_MAPPING[name]
        for auto in every:
            stock: Any = auto._model_mapping.get(config_class, None)
            classes = stock if isinstance(stock, tuple) else (stock,)
            fitting = all(getattr(one, "config_class", None) is config_class for one in classes)
            if fitting and not any(getattr(one, "_secateur", False) for one in classes):
                ours: Any = tuple(shrinkable(one) for one in classes)
                auto.register(config_class, ours if isinstance(stock, tuple) else ours[0], exist_ok=True)
