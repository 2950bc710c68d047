"""What is done with mask files: put one on a dense model, compare two, pack and unpack."""

from pathlib import Path
from typing import NamedTuple

from secateur.core.errors import InputError
from secateur.core.files import check_output
from secateur.core.mask import Masks
from secateur.core.pattern import NM
from secateur.masks.packed import MaskFile
from secateur.masks.write import write_masked
from secateur.storage.open_model import OpenModel, open_model
from secateur.storage.run_folder import RunFolder
from secateur.storage.sealed import tensor_digest
from secateur.storage.source import Source, resolve

__all__ = ["Difference", "apply_masks", "compare_masks", "pack_masks", "read_masks", "unpack_masks"]


class Difference(NamedTuple):
    """How two sets of masks differ: blocks of both, those whose mask differs, and that share by layer name."""

    blocks: int
    changed: int
    layers: dict[str, float]


def apply_masks(dense: str | Path | Source, file: Path, out: Path) -> dict[str, int | float]:
    """Save a dense model under the masks of a file in the folder `out`; return its sparsity.

    Raises InputError where the masks are of another model: other layers, sizes or weights.
    """
    folder = RunFolder(out)
    try:
        opened, masks = open_model(resolve(dense)), MaskFile.load(file)
        keep = masks.masks()
        _check(opened, keep, masks, file)
        folder.open({"masks": str(file)}, resume=False)
        write_masked(opened, folder, keep.keep, {})
        folder.finish()
    except BaseException:
        folder.give_up()
        raise
    return {"layers": len(keep.keep), "sparsity": keep.sparsity}


def _check(opened: OpenModel, keep: Masks, masks: MaskFile, file: Path) -> None:
    own = {layer.name: tuple(layer.weight.shape) for layer in opened.structure.layers}
    for name, mask in keep.keep.items():
        if name not in own:
            raise InputError(
                f"{file} has a mask of {name!r}, which {opened.source} does not have: name its dense model"
            )
        if tuple(mask.shape) != own[name]:
            raise InputError(
                f"{file} has a mask of {list(mask.shape)} for {name}, which is {list(own[name])} in {opened.source}"
            )
    digests = _weight_digests(opened, list(masks.base))
    for name, digest in masks.base.items():
        if digests.get(name) != digest:
            raise InputError(
                f"{file} was made for other weights than {opened.source} has in {name}: name the dense model that the "
                "masks were learned on"
            )


def _weight_digests(opened: OpenModel, names: list[str]) -> dict[str, str]:
    """SHA-256 of dense weights by layer name, as the checkpoint stores them; names it lacks are left out."""
    known = {layer.name for layer in opened.structure.layers}
    return {
        name: tensor_digest({"weight": opened.checkpoint.read(opened.stored_name(f"{name}.weight")).contiguous()})
        for name in names
        if name in known
    }


def pack_masks(folder: Path, pattern: NM, dense: str | Path | Source | None, out: Path) -> MaskFile:
    """Pack the masks of a pruned folder, or of a masks.safetensors file, and write them to `out`.

    dense: the model they belong to, whose weights' digests go into the file. Raises PatternError unless they are n:m.
    """
    check_output(out)
    masks = read_masks(folder)
    names = list(masks.keep)
    base = {} if dense is None else _weight_digests(open_model(resolve(dense)), names)
    packed = MaskFile.of(masks, pattern, base)
    packed.save(out)
    return packed


def unpack_masks(file: Path, out: Path) -> Masks:
    """Write the masks of a packed file as masks.safetensors are: a bit for every weight."""
    check_output(out)
    masks = MaskFile.load(file).masks()
    masks.save(out)
    return masks


def read_masks(path: Path) -> Masks:
    """The masks of a pruned folder, of a masks.safetensors file, or of a packed file. Raises InputError on others."""
    file = path / "masks.safetensors" if path.is_dir() else path
    try:
        return MaskFile.load(file).masks()
    except InputError:
        return Masks.load(file)


def compare_masks(one: Path, other: Path, block: int = 4) -> Difference:
    """Compare masks block by block. Raises InputError where they are of other layers or sizes."""
    first, second = read_masks(one).keep, read_masks(other).keep
    if first.keys() != second.keys():
        lone = sorted(first.keys() ^ second.keys())
        raise InputError(f"{one} and {other} have masks of other layers: {lone[0]!r} stands in one of them alone")
    shares: dict[str, float] = {}
    blocks = changed = 0
    for name, mask in first.items():
        if mask.shape != second[name].shape or mask.shape[1] % block:
            raise InputError(f"{name} is {list(mask.shape)} in {one} and {list(second[name].shape)} in {other}")
        differs = (mask != second[name]).reshape(len(mask), -1, block).any(dim=2)
        shares[name] = float(differs.float().mean())
        blocks, changed = blocks + differs.numel(), changed + int(differs.sum())
    return Difference(blocks, changed, shares)
