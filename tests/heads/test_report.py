import json

import pytest

from secateur.core.errors import InputError
from secateur.heads.removal import RemovalOptions
from secateur.heads.report import AblationOptions, CurveOptions, report_ablation, report_curve, report_importance
from secateur.heads.scoring import Scoring
from secateur.heads.task_model import DataOptions, open_task_model


@pytest.fixture
def task_model(saved_task):
    return open_task_model(saved_task("BertForSequenceClassification"))


def tell(done, total):
    assert 0 <= done < total


def test_importance_is_a_table_a_map_and_a_correlation(task_model, labelled, tmp_path):
    data = [str(labelled), str(labelled)]
    found = report_importance(task_model, data, tmp_path / "out", Scoring(), DataOptions(), progress=tell)
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == ["importance.csv", "importance.json", "importance.png"]
    assert found["correlation"]["pearson"] == pytest.approx(1) and "Pearson 1.000" in found["words"][1]
    listed = json.loads((tmp_path / "out" / "importance.json").read_text())["heads"]
    assert len(listed) == 12 and set(listed[0]) == {"kind", "layer", "head", "importance 1", "importance 2"}
    least = min(listed, key=lambda row: row["importance 1"])
    assert f"least: encoder {least['layer']}.{least['head']}," in found["words"][0]


@pytest.mark.parametrize("keep", [False, True])
def test_ablation_has_intervals_and_words(task_model, labelled, tmp_path, keep):
    options, data_options = AblationOptions(keep_one=keep), DataOptions(samples=8)
    found = report_ablation(task_model, [str(labelled)], tmp_path / "out", options, data_options, progress=tell)
    assert (tmp_path / "out" / "ablation.png").exists() and len(found["rows"]) == 12
    assert all(row["low"] <= row["change"] <= row["high"] and 0 < row["p"] <= 1 for row in found["rows"])
    assert len(found["words"]) == (4 if keep else 2)


def test_a_curve_has_a_step_for_every_share(task_model, labelled, tmp_path):
    orders = {"importance": RemovalOptions(), "random 0": RemovalOptions(scoring=Scoring(score="random"))}
    data = (str(labelled), None)
    options = CurveOptions(orders=orders, step=0.25)
    found = report_curve(task_model, data, tmp_path / "out", options, DataOptions(), progress=tell)
    assert [row["removed"] for row in found["rows"]] == [0.25, 0.5, 0.75, 1.0]
    document = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert document["lines"]["importance"] == [row["importance"] for row in found["rows"]]
    assert (tmp_path / "out" / "curve.png").exists()
    with pytest.raises(InputError, match="between 0 and 1"):
        CurveOptions(orders=orders, step=0.0)


def test_more_than_two_data_sets_are_refused(task_model, labelled, tmp_path):
    with pytest.raises(InputError, match="got 3"):
        report_importance(task_model, [str(labelled)] * 3, tmp_path / "out", Scoring(), DataOptions(), progress=tell)
    assert not list(tmp_path.iterdir())


def test_rows_read_are_printed_and_kept(task_model, labelled, tmp_path):
    data, data_options = str(labelled), DataOptions(samples=8)
    found = report_importance(task_model, [data, data], tmp_path / "i", Scoring(), data_options, progress=tell)
    assert found["data_rows"] == json.loads((tmp_path / "i" / "importance.json").read_text())["data_rows"] == [8, 8]
    assert f"8 rows of {data} and 8 rows of {data}" in found["words"][0]
    found = report_ablation(task_model, [data], tmp_path / "a", AblationOptions(), data_options, progress=tell)
    assert found["data_rows"] == json.loads((tmp_path / "a" / "ablation.json").read_text())["data_rows"] == [8]
    assert f"8 rows of {data}" in found["words"][0]
    options = CurveOptions(orders={"x": RemovalOptions()}, step=0.5)
    found = report_curve(task_model, (data, data), tmp_path / "c", options, data_options, progress=tell)
    kept = json.loads((tmp_path / "c" / "curve.json").read_text())
    assert (found["data_rows"], found["test_rows"]) == (kept["data_rows"], kept["test_rows"]) == (8, 24)
    assert f"24 rows of {data}" in found["words"][0] and f"8 rows of {data}" in found["words"][1]
