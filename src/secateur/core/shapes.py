"""Shape aliases and the legend of dimension names.

out in    a weight as torch Linear stores it
tokens    calibration samples times their length
batch seq hidden vocab    activations, token ids and logits
samples   of what a model is called with: token ids `[samples, length]`, or `[samples, channels, high, wide]` pixels
"""

from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

__all__ = ["Activations", "GramMatrix", "Hidden", "Keep", "Samples", "ScoreMatrix", "TokenIds", "Weight"]

Weight = Float[Tensor, "out in"]
ScoreMatrix = Float[Tensor, "out in"]
Keep = Bool[Tensor, "out in"]
GramMatrix = Float[Tensor, "in in"]
Activations = Float[Tensor, "tokens in"]
Hidden = Float[Tensor, "batch seq hidden"]
TokenIds = Int[Tensor, "batch seq"]
Samples = Num[Tensor, "samples ..."]
