import sys

import numpy as np
import pandas
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier

from secateur.core.errors import InputError, ModelError
from secateur.forest.table import load_forest, read_costs, read_table, save_forest, save_onnx


def test_csv_and_parquet_hold_the_same_table(tmp_path):
    frame = pandas.DataFrame({"a": [1.0, 2.0, None], "y": ["p", "q", "p"], "b": [3, 4, 5]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        table = read_table(tmp_path / name, "y")
        assert table.columns == ["a", "b"] and table.y.tolist() == ["p", "q", "p"]
        assert np.array_equal(table.x, [[1, 3], [2, 4], [np.nan, 5]], equal_nan=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3,4\n", "has no column 'y': it has a, b"),
        ("a,y\n1,2\n3,\n", "lacks 1 values"),
        ("a,y\nred,2\nblue,3\n", "column 'a' .* holds no numbers"),
        ("y\n1\n2\n", "0 features"),
        ("", "cannot be read"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, content, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "t.csv", "y")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.parquet", "y")


def test_costs_stand_by_name_and_group(tmp_path):
    path = tmp_path / "costs.csv"
    path.write_text("feature,cost\nb,2\na,1\nc,9\n")
    assert read_costs(path, ["a", "b", "c"]) == ([1.0, 2.0, 9.0], None)
    path.write_text("feature,cost,group\na,3,scan\nb,1,age\nc,3,scan\n")
    assert read_costs(path, ["a", "b", "c"]) == ([1.0, 3.0], ["scan", "age", "scan"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,price\na,1\n", "columns feature, cost"),
        ("feature,cost\na,cheap\n", "columns feature, cost"),
        ("feature,cost\na,1\na,2\n", "name 'a' twice"),
        ("feature,cost\nb,1\n", "lack 'a', one of 1"),
        ("feature,cost,group\na,1,g\nb,2,g\n", "group 'g' cost differently"),
    ],
)
def test_costs_that_cannot_be_used_are_refused(tmp_path, content, message):
    (tmp_path / "costs.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_costs(tmp_path / "costs.csv", ["a"])


def test_a_forest_survives_skops_and_strangers_are_refused(tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(30, 3))
    forest = RandomForestClassifier(3).fit(x, x[:, 0] > 0)
    save_forest(forest, tmp_path / "m.skops")
    assert np.array_equal(load_forest(tmp_path / "m.skops").predict_proba(x), forest.predict_proba(x))
    skops.io.dump({"a": pandas.Timestamp(0)}, tmp_path / "odd.skops")
    with pytest.raises(ModelError, match="not scikit-learn's"):
        load_forest(tmp_path / "odd.skops")
    (tmp_path / "bad.skops").write_text("no")
    with pytest.raises(ModelError, match="cannot be read"):
        load_forest(tmp_path / "bad.skops")
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(InputError, match=r"secateur\[onnx\]"):
        save_onnx(forest, tmp_path / "m.onnx", 3)
    monkeypatch.setitem(sys.modules, "skops", None)
    with pytest.raises(InputError, match=r"secateur\[forest\]"):
        save_forest(forest, tmp_path / "n.skops")
