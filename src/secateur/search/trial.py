"""What a trial costs: one masking from stored ranks, and one forward pass over the fitness tokens."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from secateur.adapt.block import Block
from secateur.adapt.layer import Layer
from secateur.allocate.expression import Expression
from secateur.allocate.problem import Problem
from secateur.calibrate.statistic import InputRMS
from secateur.calibrate.survey import BlockReader, survey
from secateur.core.files import read_sealed, storage_errors, write_sealed
from secateur.core.protocols import BlockView
from secateur.core.shapes import TokenIds, Weight
from secateur.evaluate.perplexity import token_losses
from secateur.run.allocate import open_stream
from secateur.run.plan import stream_settings
from secateur.run.recipe import Recipe
from secateur.run.targets import block_weights
from secateur.score.wanda import row_ranks, wanda_score
from secateur.storage.open_model import open_model
from secateur.storage.sealed import load_sealed, save_sealed
from secateur.storage.source import Source, check_language

__all__ = ["Trials", "prepare"]


def prepare(
    source: Source, recipe: Recipe, ids: TokenIds, folder: Path, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write ranks by Wanda score and input norms of every layer, one file a block, from one streamed dense pass.

    Blocks written before are kept.
    """
    opened = open_model(source)
    places = {block.name: _stored(folder, block.number) for block in opened.structure.blocks}
    if all(path.exists() for path in places.values()):
        for path in places.values():
            load_sealed(path)  # refused here if it was changed; trials map it
        return
    names = iter(places.values())

    def read(view: BlockView) -> None:
        tensors = {f"{name}.norm": view.stats[name][InputRMS].value.float().clone() for name in view.weights}
        for name, weight in view.weights.items():
            tensors[f"{name}.rank"] = row_ranks(wanda_score(weight, tensors[f"{name}.norm"]))
        save_sealed(next(names), tensors)

    with storage_errors(folder), open_stream(opened.structure, stream_settings(recipe), ids) as stream:
        folder.mkdir(parents=True, exist_ok=True)
        survey(stream, opened, BlockReader((InputRMS,), read), progress or (lambda done, total: None))


class Trials:
    """One worker's model, masked anew for every trial; the dense weights are read from the mapped checkpoint."""

    def __init__(self, source: Source, folder: Path, ids: TokenIds, batch: int) -> None:
        """Load the model; `ids` `[samples, length]` are the fitness tokens, `batch` samples to a forward pass."""
        self._dense = open_model(source)
        structure = self._dense.whole()
        check_language(structure.model, "trials are judged by the loss of next tokens")
        self._model, self._blocks = structure.model, structure.blocks
        self._folder = folder
        self._batches = ids.split(batch)

    @property
    def problem(self) -> Problem:
        """Sizes of blocks and layers."""
        return block_weights(self._dense.structure, biases=False)

    def fitness(self, ratios: Mapping[str, float]) -> float:
        """Mean negative log-likelihood, nats a token, of the model masked at these ratios, by block or layer name."""
        for number, block in enumerate(self._blocks):
            with safe_open(_stored(self._folder, number), framework="pt") as stored:
                for layer in block.layers:
                    gone = round(ratios.get(layer.name, ratios.get(block.name, 0.0)) * layer.weight.shape[1])
                    layer.set_weight(self._weight(layer) * (stored.get_tensor(f"{layer.name}.rank") >= gone))
        losses = torch.cat([token_losses(self._model, batch).flatten() for batch in self._batches])
        return float(losses.double().mean())

    def reduced(self, expression: Expression) -> dict[str, float]:
        """The expression's number of every block before post-processing; kept, as many expressions share it."""
        path = self._folder / f"{'-'.join((*expression.pre, expression.reduce))}.json"
        if not path.exists():
            reduced = {block.name: self._reduce(number, block, expression) for number, block in enumerate(self._blocks)}
            write_sealed(path, reduced)
        return read_sealed(path)

    def _reduce(self, number: int, block: Block, expression: Expression) -> float:
        with safe_open(_stored(self._folder, number), framework="pt") as stored:
            scores = [
                wanda_score(self._weight(layer), stored.get_tensor(f"{layer.name}.norm")) for layer in block.layers
            ]
        return expression.reduced(scores)

    def _weight(self, layer: Layer) -> Weight:
        # The model's own is masked.
        dense = self._dense.checkpoint.read(self._dense.stored_name(f"{layer.name}.weight")).float()
        return dense.T if layer.transposed else dense


def _stored(folder: Path, number: int) -> Path:
    return folder / f"{number}.safetensors"
