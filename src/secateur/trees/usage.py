"""Features by name: which a table has, what they cost, which examples need; and one that buys them when nodes ask."""

import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from secateur.core.compiled import compiled
from secateur.core.errors import InputError
from secateur.trees.tree_arrays import Forest

__all__ = [
    "Bill",
    "Prices",
    "answer",
    "feature_names",
    "in_order",
    "named",
    "nearest",
    "others",
    "read_prices",
    "used_features",
]

_DEAREST = 1e100  # sums of what costs more are no longer finite


@dataclass(frozen=True, eq=False)
class Prices:
    """What every group of features costs, and which group a feature is in."""

    group: Int[np.ndarray, " features"]
    cost: Float[np.ndarray, " groups"]

    def bill(self, used: Bool[np.ndarray, "examples features"]) -> Float[np.ndarray, " examples"]:
        """What every example pays for the features it uses.

        Formula: C_i = sum_k c_k max_{f in k} used_if, a group k is paid once [Nan et al. 2016]
        """
        bought = np.zeros((len(used), len(self.cost)), bool)
        np.logical_or.at(bought.T, self.group, used.T)  # .at: several features may be in one group
        return bought @ self.cost  # [examples, groups] @ [groups]


def read_prices(features: int, costs: Any = None, groups: Any = None, names: Sequence[str] | None = None) -> Prices:
    """Prices of `features` features: one each (default 1), or one of each group named in `groups`.

    costs: by feature, or with groups by group in the order of their sorted names, then by every feature without one
    (None, NaN or blank); or a mapping or pandas Series, which goes by name. groups: by feature, or by name too; who is
    not named there has none. names: of the features; without any, a name is a number from 0.
    Raises InputError on the wrong number, on names unknown or missing, and on costs that are not 0 to 1e100.
    """
    wanted: list[Any] = list(range(features)) if names is None else [str(name) for name in names]
    bought, group = _read_groups(groups, wanted)
    by_name = _mapping(costs)
    if by_name is not None:
        if len(set(bought)) < len(bought):
            raise InputError("feature_costs goes by name, and a group has the name of a feature without one: rename it")
        prices = _by_name(by_name, bought, "feature_costs")
        missing = [name for name in bought if name not in prices]
        if missing:
            raise InputError(f"feature_costs has no price for {missing[0]!r}{others(missing)}")
        costs = [prices[name] for name in bought]
    try:
        cost = np.ones(len(bought)) if costs is None else np.asarray(costs, dtype=float)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"feature_costs should hold numbers: {str(error)[:200]}") from error
    if cost.shape != (len(bought),):
        raise InputError(f"feature_costs should hold {len(bought)} numbers, one for each to buy, got {cost.shape}")
    wrong = np.flatnonzero(~((cost >= 0) & (cost <= _DEAREST)))
    if len(wrong):
        raise InputError(
            f"feature_costs should be finite and at least 0, and at most {_DEAREST:g}: {bought[wrong[0]]!r} costs "
            f"{cost[wrong[0]]}"
        )
    return Prices(group, cost)


def _mapping(given: Any) -> dict[Any, Any] | None:
    """What goes by name as a dict: mappings, and Series of pandas."""
    if isinstance(given, Mapping):
        return dict(given)
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(given, pandas.Series):
        return None
    if given.index.has_duplicates:
        raise InputError(f"a Series names {given.index[given.index.duplicated()][0]!r} twice")
    return dict(given.items())


def _by_name(given: Mapping[Any, Any], known: Sequence[Any], what: str) -> dict[Any, Any]:
    """The same, under the very names that are known. Raises InputError on others."""
    names, exact = set(known), {str(name): name for name in known}
    matched = {name if name in names else exact.get(str(name), name): value for name, value in given.items()}
    strange = [name for name in matched if name not in names]
    if strange:
        raise InputError(f"{what} names {strange[0]!r}, and nothing here is called that{nearest(strange[0], known)}")
    if len(matched) < len(given):
        raise InputError(f"{what} names one thing twice, as a number and as text")
    return matched


def _read_groups(groups: Any, wanted: list[Any]) -> tuple[list[Any], Int[np.ndarray, " features"]]:
    """Names of what is bought, sorted groups and then features without one; and where every feature is among them."""
    if groups is None:
        return wanted, np.arange(len(wanted))
    by_name = _mapping(groups)
    if by_name is not None:
        matched = _by_name(by_name, wanted, "feature_groups")
        groups = [matched.get(name) for name in wanted]
    if np.ndim(groups) != 1 or len(groups) != len(wanted):
        raise InputError(f"feature_groups names {len(groups)} features, and there are {len(wanted)}")
    listed = [None if _is_blank(label) else label for label in np.asarray(groups, dtype=object).tolist()]
    try:
        names: list[Any] = sorted({label for label in listed if label is not None})
    except TypeError:  # of several kinds
        listed = [None if label is None else str(label) for label in listed]
        names = sorted({label for label in listed if label is not None})
    number = {name: place for place, name in enumerate(names)}
    alone = [place for place, label in enumerate(listed) if label is None]
    group = np.array([-1 if label is None else number[label] for label in listed], int)
    group[alone] = len(names) + np.arange(len(alone))
    return [*names, *(wanted[place] for place in alone)], group


def _is_blank(name: Any) -> bool:
    if isinstance(name, str):
        return not name.strip()
    return name is None or type(name).__name__ in ("NAType", "NaTType") or name != name


def nearest(name: Any, known: Sequence[Any]) -> str:
    """The end of a sentence on an unknown name: the nearest one there is, if any is near."""
    texts = {str(candidate).casefold(): str(candidate) for candidate in known}
    close = difflib.get_close_matches(str(name).casefold(), texts, n=1, cutoff=0.4)
    return f"; the nearest is {texts[close[0]]!r}" if close else f": there is {', '.join(map(repr, [*known][:8]))}"


def feature_names(model: Any) -> list[str] | None:
    """Names of the columns a model was fitted on, None where they had none."""
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        return None
    listed = [str(name) for name in names]
    return None if listed == [f"Column_{place}" for place in range(len(listed))] else listed  # LightGBM's for none


def in_order(x: Any, names: Sequence[str] | None, *, spaces: bool = True) -> Any:
    """A table with the columns `names` in that order, other columns left out; what has no names is given back.

    Without `names`, columns numbered from 0 are put in order, and other labels become text. spaces: whether a space
    is told from an underscore, which LightGBM writes for it.
    Raises InputError on columns that are missing or stand there twice.
    """
    if not hasattr(x, "columns"):
        return x
    labels = list(x.columns)
    counted = [*range(len(labels))]
    numbered = all(isinstance(label, int | np.integer) for label in labels) and sorted(labels) == counted
    if numbered and names is None:
        return x if labels == counted else x[counted]
    place = {_key(label, spaces): label for label in labels}
    if len(place) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1 or place[_key(label, spaces)] != label)
        raise InputError(f"the table has two columns named {str(twice)!r}: name each once")
    names = [str(label) for label in labels] if names is None else names
    missing = [name for name in names if _key(name, spaces) not in place]
    if missing and numbered:
        return x.to_numpy()  # these numbers are no names
    if missing:
        raise InputError(
            f"the table has {len(labels)} columns and none is {missing[0]!r}{others(missing)}, which the forest was "
            "fitted on" + nearest(missing[0], labels)
        )
    wanted = [place[_key(name, spaces)] for name in names]
    chosen, texts = x if wanted == labels else x[wanted], [str(label) for label in wanted]
    return chosen if texts == wanted else chosen.set_axis(texts, axis=1)


def _key(label: Any, spaces: bool) -> str:
    return str(label) if spaces else re.sub(r"\s", "_", str(label))


def named(x: Any, names: Sequence[str] | None) -> Any:
    """An array as a table with these column names; itself where there are none."""
    if names is None:
        return x
    import pandas

    return pandas.DataFrame(x, columns=[*names], copy=False)


def used_features(forest: Forest, x: Float[np.ndarray, "examples features"]) -> Bool[np.ndarray, "examples features"]:
    """Whether any tree asks an example for a feature."""
    return _used(forest.leaves(x), forest.parent, forest.steps.feature, x.shape[1])


@compiled
def _used(leaves: Any, parent: Any, feature: Any, features: int) -> Any:  # pragma: no cover - compiled
    used = np.zeros((leaves.shape[1], features), np.bool_)
    for tree in range(leaves.shape[0]):
        for row in range(leaves.shape[1]):
            node = parent[leaves[tree, row]]
            while node >= 0:
                used[row, feature[node]] = True
                node = parent[node]
    return used


class Bill(NamedTuple):
    """The features asked for, in that order, and what they cost together."""

    features: list[int]
    cost: float


def answer(
    forest: Forest,
    prices: Prices,
    acquire: Callable[[int], Mapping[int, float] | float],
    known: dict[int, float] | None = None,
) -> tuple[Float[np.ndarray, " outputs"], Bill]:
    """Mean of the leaves' values, and the bill; whatever is acquired is put into `known`."""
    known = {} if known is None else known
    asked: list[int] = []
    bought: set[int] = set()
    steps = forest.steps

    def value(feature: int) -> float:
        if feature not in known:
            values = acquire(feature)
            known.update(values if isinstance(values, Mapping) else {feature: values})
            asked.append(feature)
            bought.add(int(prices.group[feature]))
        return float(np.float32(known[feature])) if forest.single else float(known[feature])  # compare as the trees do

    total = np.zeros(forest.value.shape[1])
    for root in forest.roots:
        node = int(root)
        while steps.feature[node] >= 0:
            seen = value(int(steps.feature[node]))
            goes_left = steps.missing_left[node] if np.isnan(seen) else seen <= steps.threshold[node]
            node = int((steps.left if goes_left else steps.right)[node])
        total += forest.value[node]
    return total / len(forest.roots), Bill(asked, float(prices.cost[sorted(bought)].sum()))


def others(missing: Sequence[str]) -> str:
    """How many more are missing than the one that is named."""
    return f" and {len(missing) - 1} more" if len(missing) > 1 else ""
