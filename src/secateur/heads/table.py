"""One row a head: which it is and what was measured; as CSV and JSON."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.core.files import write_document
from secateur.heads.task_model import TaskModel

__all__ = ["correlate", "head_rows", "save_rows"]


def head_rows(task_model: TaskModel, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A row of every head: kind, layer and head, counted from 0, and its entry of every column.

    columns: by name, a list or tensor of every attention's heads.
    """
    rows = []
    for place, attention in enumerate(task_model.attentions):
        for head in range(attention.heads):
            values = {name: _plain(column[place][head]) for name, column in columns.items()}
            rows.append({"kind": attention.kind, "layer": attention.layer, "head": head, **values})
    return rows


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def save_rows(rows: Sequence[Mapping[str, Any]], path: Path, about: Mapping[str, Any]) -> None:
    """Write path.csv, and path.json with what the rows are about beside them."""
    target = path.with_suffix(".csv")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_document(path.with_suffix(".json"), {**about, "heads": list(rows)})


def correlate(first: Sequence[Tensor], second: Sequence[Tensor]) -> dict[str, float] | None:
    """Pearson's and Spearman's correlation of two scores of the same heads, with p; None where one is constant."""
    from scipy.stats import pearsonr, spearmanr

    a, b = (torch.cat(list(scores)).double().numpy() for scores in (first, second))
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:  # SciPy would warn and answer NaN
        return None
    linear, ranks = pearsonr(a, b), spearmanr(a, b)
    return {
        "pearson": float(linear.statistic),
        "pearson_p": float(linear.pvalue),
        "spearman": float(ranks.statistic),
        "spearman_p": float(ranks.pvalue),
    }
