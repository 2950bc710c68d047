"""The plan of removing attention heads, without scoring any: how many, and how small the model becomes."""

from collections.abc import Sequence
from typing import Any

from secateur.core.errors import RatioError
from secateur.heads.task_model import TaskModel
from secateur.surgery.heads import head_sites

__all__ = ["plan_heads"]


def plan_heads(task_model: TaskModel, ratio: float, *, kinds: Sequence[str] = (), min_heads: int = 0) -> dict[str, Any]:
    """What `heads prune` would remove. Which heads follows from scores; how many does not.

    parameters: before and after, exact where all heads are of one size, else by their mean. units: how many heads are
    removed at once, more than 1 where they share a KV head. Raises RatioError where min_heads leaves too few.
    """
    wanted = task_model.of_kinds(kinds)
    chosen = [place for place, use in enumerate(wanted) if use]
    layouts = [task_model.layouts[place] for place in chosen]
    heads = sum(layout.heads for layout in layouts)
    together = max((layout.shared if layout.unit == "kv_groups" else 1 for layout in layouts), default=1)
    removed = int(ratio * heads + 1e-9) // together * together
    free = sum(max(0, layout.heads - min_heads) for layout in layouts)
    if removed > free:
        raise RatioError(
            f"ratio {ratio:g} removes {removed} of {heads} heads, and --min-heads {min_heads} leaves {free}"
        )
    sites = head_sites([task_model.attentions[place] for place in chosen], task_model.unit)
    units, weights = sum(site.count for site in sites), sum(site.count * site.weights for site in sites)
    before = task_model.model.num_parameters()
    return {
        **task_model.about,
        "heads": [heads, heads - removed],
        "attentions": len(layouts),
        "units": together,
        "parameters": [before, before - round(weights / units * removed / together)],
    }
