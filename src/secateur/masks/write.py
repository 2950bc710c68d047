"""A model under learned masks: weights as they were or refitted, and the folder they are saved in."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from secateur.adapt.layer import Layer
from secateur.calibrate.statistic import Gathered, Gram
from secateur.calibrate.stream import StreamSettings
from secateur.core.files import storage_errors
from secateur.core.linalg import damped, refit_conjugate
from secateur.core.mask import Masks
from secateur.core.shapes import TokenIds
from secateur.run.allocate import open_stream
from secateur.storage.folder import Edits, copy_companions, write_pruned
from secateur.storage.open_model import OpenModel
from secateur.storage.run_folder import RunFolder

__all__ = ["refitted", "write_masked"]

_DAMP = 1e-4


def refitted(
    opened: OpenModel, keep: Mapping[str, Tensor], ids: TokenIds, settings: StreamSettings, steps: int
) -> dict[str, Tensor]:
    """Weights by layer name that fit the dense layers' outputs under the masks, each layer after those before it.

    ids: calibration `[samples, length]`. steps: of conjugate gradients.
    """
    solved: dict[str, Tensor] = {}

    def solve(layers: Sequence[Layer], stats: Gathered) -> None:
        gram = damped(stats[Gram].value, _DAMP)
        for layer in layers:
            solved[layer.name] = refit_conjugate(layer.weight.float(), keep[layer.name], gram, steps)
            layer.set_weight(solved[layer.name])

    with open_stream(opened.structure, settings, ids) as stream:
        with opened.loaded(opened.outside_blocks()):
            stream.embed()
        for block in opened.structure.blocks:
            with opened.loaded(block.tensors()):
                stream.run(block, lambda layers: (Gram,), solve, last=block is opened.structure.blocks[-1])
    return solved


def write_masked(
    opened: OpenModel, folder: RunFolder, keep: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> None:
    """Put the model together in the run folder: zeros where nothing is kept, masks.safetensors beside the weights.

    weights: those that were refitted, by layer name; others are the checkpoint's own.
    """
    target, turned = folder.new_model(), {layer.name for layer in opened.structure.layers if layer.transposed}

    def changed(name: str) -> Tensor | None:
        layer, _, leaf = opened.model_name(name).rpartition(".")
        if leaf != "weight" or layer not in keep:
            return None
        own = weights.get(layer)
        if own is None:
            stored = opened.checkpoint.read(name)
            own = stored.T if layer in turned else stored
        pruned = Masks(keep).apply({layer: own})[layer].to(opened.checkpoint.info(name)[0])
        return (pruned.T if layer in turned else pruned).contiguous()

    with storage_errors(target):
        copy_companions(opened.source.folder, target, code=opened.source.trusted)
        write_pruned(opened.checkpoint, target, Edits(tensor=changed))
        Masks(keep).save(target / "masks.safetensors")
