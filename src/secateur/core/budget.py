"""A limit with a unit: params, MACs, bytes, milliseconds or feature cost."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from secateur.core.errors import InputError

__all__ = ["Budget", "Unit", "parse_budget"]

Unit = Literal["params", "macs", "bytes", "ms", "cost"]
_SCALE = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


@dataclass(frozen=True)
class Budget:
    """A limit and the unit it is counted in."""

    limit: float
    unit: Unit

    def __post_init__(self) -> None:
        """Refuse limits that nothing can meet."""
        if not 0 < self.limit < float("inf"):
            raise InputError(f"budget {self.limit} {self.unit} must be a positive number")

    def allows(self, amount: float) -> bool:
        """Whether an amount in the same unit stays within the limit."""
        return amount <= self.limit


def parse_budget(text: str) -> Budget:
    """A budget as written on the command line: 100M-params, 2.5G-macs, 40-ms.

    Raises InputError on anything else.
    """
    units = "|".join(unit for unit in get_args(Unit) if unit != "cost")  # cost is a forest's, given as a number
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)([kKMGB]?)-({units})", text)  # M is 10^6; no 2^20 anywhere
    if not match:
        known = units.replace("|", ", ")
        raise InputError(
            f"budget {text!r} should look like 100M-params: a number, perhaps k, M or G, and one of {known}"
        )
    for unit in get_args(Unit):
        if match[3] == unit:
            return Budget(float(match[1]) * _SCALE[match[2]], unit)
    raise AssertionError("the expression only matches known units")
