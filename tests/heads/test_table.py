import csv
import json

import pytest
import torch

from secateur.heads.table import correlate, head_rows, save_rows
from secateur.heads.task_model import open_task_model


def test_a_row_for_every_head_goes_through_csv_and_json(saved_task, tmp_path):
    task_model = open_task_model(saved_task("MarianMTModel"))
    scores = [torch.arange(4.0) + place for place in range(len(task_model.attentions))]
    rows = head_rows(task_model, {"importance": scores})
    assert len(rows) == 32 and rows[9] == {"kind": "decoder", "layer": 0, "head": 1, "importance": 3.0}
    save_rows(rows, tmp_path / "table", {"model": "m"})
    with (tmp_path / "table.csv").open() as file:
        assert [float(row["importance"]) for row in csv.DictReader(file)] == [row["importance"] for row in rows]
    assert json.loads((tmp_path / "table.json").read_text()) == {"model": "m", "heads": rows}


def test_correlations_of_lines_and_of_nothing():
    first = [torch.tensor([1.0, 2, 3]), torch.tensor([4.0, 6])]
    found = correlate(first, [-row for row in first])
    assert found["pearson"] == pytest.approx(-1) and found["spearman"] == pytest.approx(-1)
    assert correlate(first, [torch.zeros(3), torch.zeros(2)]) is None
