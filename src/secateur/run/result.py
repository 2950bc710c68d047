"""What a run returns: layers, losses, times, versions, peak memory."""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["LayerReport", "Made", "Result", "versions"]


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One pruned matrix: asked ratio, measured sparsity, loss per token when it was solved, size, seconds.

    block_error: the relative error of the block's outputs on held-out windows before and after reconstruction.
    tokens: calibration tokens that reached an expert's matrix. fallback: what stood for them where there were too few.
    """

    name: str
    ratio: float
    sparsity: float
    loss: float | None
    weights: int
    seconds: float
    block_error: Sequence[float] | None = None
    tokens: int | None = None
    fallback: str | None = None


class Made(NamedTuple):
    """What was written: a report of every layer, the weights that went, the blocks an earlier run had finished."""

    layers: list[LayerReport]
    removed: int
    resumed: int = 0


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run; `to_dict()` is what result.json holds.

    parameters, bytes: of the whole checkpoint, before and after. held_out: perplexity `before` and `after` on a few
    `windows` of `length` tokens of the calibration's source that were not used; None where there are none, and
    why it `failed` where it could not be measured.
    products: what forward passes multiplied in.
    candidates: the held-out loss, nats a token, of every allocation that an allocator judged, by masked models.
    """

    out: Path
    recipe: dict[str, Any]
    layers: list[LayerReport]
    block_weights: int
    removed_weights: int
    seconds: float
    peak_memory_mb: float
    resumed_blocks: int
    calibration_tokens: int
    parameters: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)
    held_out: dict[str, Any] | None = None
    candidates: dict[str, float] | None = None
    trust_remote_code: bool = False
    device: str = "cpu"
    products: str = "float32"
    finished: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = field(default_factory=lambda: versions())

    @property
    def sparsity(self) -> float:
        """The measured share removed of all weights in blocks that could go."""
        return self.removed_weights / self.block_weights if self.block_weights else 0.0

    @property
    def cold_experts(self) -> dict[str, int]:
        """How many matrices of experts were pruned by what stood for their inputs: layer or magnitude."""
        return dict(Counter(layer.fallback for layer in self.layers if layer.fallback))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "out": str(self.out), "sparsity": self.sparsity, "cold_experts": self.cold_experts}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Result":
        """What `to_dict` gave, also after JSON."""
        own = {key: value for key, value in data.items() if key not in ("sparsity", "cold_experts")}
        own |= {"out": Path(data["out"]), "layers": [LayerReport(**layer) for layer in data["layers"]]}
        return cls(**own | {name: tuple(data[name]) for name in ("parameters", "bytes")})


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    names = ("secateur", "torch", "transformers", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
