"""What every expert of a layer did for the calibration tokens: how many it got, and how large its outputs were."""

from typing import Any

import torch
from torch import Tensor, nn

from secateur.infer.experts import expert_output

__all__ = ["Worth"]


class Worth:
    """Sums over the tokens that a router sends to each expert of one layer.

    tokens: how many. gated: of gate times output norm. norms: of output norms. seen: tokens that reached the layer.
    chosen: experts a token is sent to. experts_per_token is what the router chose, not what a config says.
    """

    def __init__(self, count: int) -> None:
        """No tokens yet, of that many experts."""
        self.tokens = torch.zeros(count, dtype=torch.long)
        self.gated = torch.zeros(count, dtype=torch.float64)
        self.norms = torch.zeros(count, dtype=torch.float64)
        self.seen = 0
        self.chosen = 0

    def watch(self, module: nn.Module) -> Any:
        """See every call of an experts module from now on; remove the handle to stop."""
        return module.register_forward_pre_hook(self._called, with_kwargs=True)

    def _called(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = ("hidden_states", "top_k_index", "top_k_weights")
        x, chosen, gates = (*args, *(kwargs[name] for name in names[len(args) :]))[:3]
        self.update(module, x.reshape(-1, x.shape[-1]), chosen, gates)

    def update(self, module: Any, x: Tensor, chosen: Tensor, gates: Tensor) -> None:
        """Add tokens `[tokens, hidden]` that go to the experts `[tokens, k]` with these gates."""
        self.seen += len(x)
        self.chosen = chosen.shape[-1]
        for number in range(len(self.tokens)):
            rows, places = (chosen == number).nonzero(as_tuple=True)
            if len(rows):
                norms = expert_output(module, x[rows], number).double().norm(dim=-1)
                self.tokens[number] += len(rows)
                self.norms[number] += norms.sum()
                self.gated[number] += (gates[rows, places].double().abs() * norms).sum()
