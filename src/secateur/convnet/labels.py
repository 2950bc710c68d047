"""Labels: a number on every element of a tensor, and which numbers must be removed together."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

__all__ = ["NOTHING", "Groups", "LabelTensor", "Labels", "first_along", "narrowed", "varying"]

LabelTensor = Int[Tensor, "..."]
NOTHING = -1  # the label of what no channel owns: pixels, padding, constants


class Labels:
    """Hands out labels and notes which belong together; `groups` then says what can be removed.

    Two elements with one label, or with labels that were joined, are removed together or not at all.
    Labels that were frozen are never removed.
    """

    def __init__(self) -> None:
        """Start with no label."""
        self.count = 0
        self.reasons: dict[str, list[Tensor]] = {}
        self._pairs: list[Tensor] = []
        self._added: list[Tensor] = []

    def fresh(self, count: int) -> LabelTensor:
        """So many new labels, `[count]`."""
        self.count += count
        return torch.arange(self.count - count, self.count)

    def join(self, *tensors: LabelTensor) -> None:
        """Note that elements at one place of these tensors, which broadcast together, belong together."""
        first, *others = tensors
        for other in others:
            left, right = narrowed(*torch.broadcast_tensors(first, other))
            if left is right or torch.equal(left, right):
                continue
            both = (left != NOTHING) & (right != NOTHING) & (left != right)
            pairs = torch.stack([left[both], right[both]])
            if pairs.shape[1] > self.count:  # a pair that stands at every pixel is noted once
                pairs = torch.unique(pairs, dim=1)
            self._pairs.append(pairs)

    def join_along(self, labels: LabelTensor, dims: Sequence[int]) -> LabelTensor:
        """Join what differs along these dimensions; return one label in its place, `dims` kept with size 1."""
        one = first_along(labels, dims)
        self.join(labels, one)
        return one

    def freeze(self, labels: LabelTensor | None, reason: str) -> None:
        """Note that none of these can be removed, and why."""
        if labels is not None and labels.numel():
            self.reasons.setdefault(reason, []).append(torch.unique(narrowed(labels)[0]))

    def added(self, labels: LabelTensor) -> None:
        """Note that these are sums of several channels, as residual additions make them."""
        self._added.append(torch.unique(narrowed(labels)[0]))

    def groups(self) -> "Groups":
        """What belongs together, after all that was noted."""
        pairs = torch.cat(self._pairs, dim=1).numpy() if self._pairs else np.zeros((2, 0), dtype=np.int64)
        size = max(self.count, 1)
        graph = coo_matrix((np.ones(pairs.shape[1], dtype=bool), (pairs[0], pairs[1])), shape=(size, size))
        count, group = connected_components(graph, directed=False)
        groups = Groups(torch.from_numpy(group.astype(np.int64)), count)
        added = groups.of(torch.cat([*self._added, torch.empty(0, dtype=torch.long)]))
        groups.added[added[added != NOTHING]] = True
        for reason, frozen in self.reasons.items():
            groups.freeze(groups.of(torch.cat(frozen)), reason)
        return groups


class Groups:
    """Labels as numbers of groups: what is removed together has one number."""

    def __init__(self, group: Tensor, count: int) -> None:
        """group: of every label, below `count`; none is frozen yet.

        added: which groups are sums of several channels; reasons: how many groups each reason froze.
        """
        self.group = group
        self.frozen, self.added = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
        self.reasons: dict[str, int] = {}

    def of(self, labels: LabelTensor) -> LabelTensor:
        """The groups of labels; NOTHING where there is none."""
        return torch.where(labels == NOTHING, labels, self.group[labels.clamp_min(0)])

    def freeze(self, groups: LabelTensor, reason: str) -> None:
        """Never remove these groups; `reasons` counts how many."""
        held = torch.unique(groups[groups != NOTHING])
        self.frozen[held] = True
        if len(held):
            self.reasons[reason] = self.reasons.get(reason, 0) + len(held)

    def free(self, labels: LabelTensor) -> LabelTensor:
        """The groups of labels; NOTHING where there is none or it is frozen."""
        groups = self.of(labels)
        return torch.where((groups != NOTHING) & ~self.frozen[groups.clamp_min(0)], groups, NOTHING)


def first_along(labels: LabelTensor, dims: Sequence[int]) -> LabelTensor:
    """One label for each run along these dimensions, which keep size 1: any but NOTHING where there is one."""
    for dim in dims:
        labels = labels.narrow(dim, 0, 1) if labels.stride(dim) == 0 else labels.amax(dim, keepdim=True)
    return labels


def varying(labels: LabelTensor) -> list[int]:
    """Dimensions along which labels, or groups, differ."""
    return [dim for dim in range(labels.dim()) if bool((labels != labels.narrow(dim, 0, 1)).any())]


def narrowed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one shape without the repeats that all of them are expanded by."""
    for dim in range(tensors[0].dim()):
        if tensors[0].shape[dim] > 1 and all(tensor.stride(dim) == 0 for tensor in tensors):
            tensors = tuple(tensor.narrow(dim, 0, 1) for tensor in tensors)
    return tensors
