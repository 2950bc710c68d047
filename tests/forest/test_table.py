import sys

import numpy as np
import pandas
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier

from secateur.core.errors import InputError, ModelError
from secateur.forest.table import load_forest, read_costs, read_table, save_forest, save_onnx
from secateur.trees.usage import read_prices


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
        ("feature,cost\nb,1\n", "no price for 'a'"),
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


def table(tmp_path, content, name="t.csv", **settings):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, "y", **settings)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["0", "1", "1"], [0, 1, 1]),
        (["0.5", "-1e3", ".25"], [0.5, -1000.0, 0.25]),
        (["007", "010", "1"], ["007", "010", "1"]),
        (["NA", "yes", "None"], ["NA", "yes", "None"]),
        (["nan", "inf", "x"], ["nan", "inf", "x"]),
        (["True", "False", "True"], [True, False, True]),
        ([" a", "a ", "1"], [" a", "a ", "1"]),
    ],
)
def test_text_is_text_and_numbers_are_numbers(tmp_path, values, expected):
    rows = "".join(f"{place},{value}\n" for place, value in enumerate(values))
    found = table(tmp_path, "a,y\n" + rows)
    assert found.y.tolist() == expected and found.x[:, 0].tolist() == [0, 1, 2]
    assert table(tmp_path, "a,y\n" + rows, labels="text").y.tolist() == values
    if values[0] == "007":
        assert table(tmp_path, "a,y\n" + rows, labels="numbers").y.tolist() == [7, 10, 1]


def test_columns_keep_their_names_and_may_be_chosen(tmp_path):
    found = table(tmp_path, b"\xef\xbb\xbf007,NA,2019,a b,y\n1,NA,3,,0\n5,6,7,8,1\n")
    assert found.columns == ["007", "NA", "2019", "a b"]
    assert np.array_equal(found.x, [[1, np.nan, 3, np.nan], [5, 6, 7, 8]], equal_nan=True)
    chosen = table(tmp_path, "id,b,a,y\nx,1,2,0\nz,3,4,1\n", names=["a", "b"])
    assert chosen.columns == ["a", "b"] and chosen.x.tolist() == [[2, 1], [4, 3]]
    with pytest.raises(InputError, match="t.csv: the table has 3 columns and none is 'bb'.*the nearest is 'b'"):
        table(tmp_path, "id,b,a,y\nx,1,2,0\nz,3,4,1\n", names=["a", "bb"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,y\n1,0\n1,2,3\n", "line 3 of .* has 3 fields, and the first line names 2"),
        ("a,b,y\n1,2,0\n\n1,1\n", "line 4 of .* has 2 fields"),
        ("a,y\n1,0,9\n2,1,9\n", "line 2 of .* has 3 fields"),
        ("a,y\ninf,0\n1,1\n", "column 'a' of .* holds 'inf' in line 2"),
        ("a,y\n1,0\n-1e39,1\n", "holds '-1e[+]39' in line 3"),
        (f"a,y\n1,0\n{'9' * 400},1\n", "column 'a' of .* in (line 3|row 2)"),
        ("a,y\n1,0\n2x,1\n", "column 'a' .* holds no numbers, but '2x' in line 3"),
        ("a,a,y\n1,2,0\n3,4,1\n", "two columns named 'a'"),
        (",a,y\n0,1,0\n1,2,1\n", "column 1 of .* has no name"),
        ("a,y\n1,0\n2,NA\n3,1\n", "lacks 1 values"),
        ("a,y\n1,yes\n2,\n", "lacks 1 values"),
        ("a,y\n1,0\n2,1e200\n", "column 'y' of .* holds '1e[+]200' in line 3"),
        ("a,y\n1,0\n2,inf\n", "column 'y' of .* holds 'inf' in line 3"),
        ('a,y\n"1,0\n2,1\n', "cannot be read"),
        ("a,y\n1,0\n1\x002,1\n", "cannot be read: line 3 holds a zero byte"),
        (b"a,y\n\xff\xfe,1\n2,2\n", "cannot be read"),
        ("a;yy\n1;2\n", "has no column 'y': it has a;yy"),
        ("a,Y\n1,2\n", "the nearest is 'Y'"),
        ("\n", "it is empty"),
        ("a,y\n" + "1" * 200_000 + ",1\n", "cannot be read: field larger"),
    ],
)
def test_what_stands_wrong_is_named_by_its_place(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as error:
        table(tmp_path, content)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_parquet_keeps_types_and_refuses_what_is_neither_number_nor_text(tmp_path):
    frame = pandas.DataFrame({"a": [1.0, 2.0], "y": ["1", "NA"], "2": pandas.array([1, None], dtype="Int64")})
    frame.to_parquet(tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet", "y")
    assert found.y.tolist() == ["1", "NA"] and found.columns == ["a", "2"] and np.isnan(found.x[1, 1])
    for bad in (
        pandas.to_datetime(["2020", "2021"]),
        [b"x", b"y"],
        [[1], [2]],
        [1.0, None],
        ["a", None],
        [1.0, np.inf],
    ):
        frame.assign(y=bad).to_parquet(tmp_path / "t.parquet")
        with pytest.raises(InputError, match="column 'y' of"):
            read_table(tmp_path / "t.parquet", "y")
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + bytes(50) + b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "t.parquet", "y")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "a\0b.csv", "y")


def test_a_blank_group_is_no_group(tmp_path):
    path = tmp_path / "costs.csv"
    path.write_text("feature,cost,group\nb,5,\nscan1,3,scan\na,4,\nscan2,3,scan\nc,3,  \n")
    costs, groups = read_costs(path, ["a", "b", "c", "scan1", "scan2"])
    prices = read_prices(5, costs, groups, ["a", "b", "c", "scan1", "scan2"])
    assert prices.bill(np.ones((1, 5), bool)).tolist() == [15.0] and prices.bill(np.eye(5, dtype=bool)).tolist() == [
        4,
        5,
        3,
        3,
        3,
    ]


def test_names_in_costs_are_text(tmp_path):
    names = ["007", "7", "NA", "nan", "None", "1e5", "100000", "2019", "", "true"]
    rows = "".join(f"{name},{place + 1}\n" for place, name in enumerate(names))
    (tmp_path / "costs.csv").write_bytes(b"\xef\xbb\xbffeature,cost\r\n" + rows.encode())
    found, groups = read_costs(tmp_path / "costs.csv", names[::-1])
    assert found == list(range(10, 0, -1)) and groups is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("feature,cost\na,1\nbb,2\n", "no price for 'b'.*the nearest is 'bb'"),
        ("feature,cost\na,1\nb,2\nc,1\n", "line 4 of .* prices 'c', which is no feature here"),
        ("feature,cost\na,-1\nb,2\n", "line 2 of .* says '-1'"),
        ("feature,cost\na,1\nb,nan\n", "line 3 of .* says 'nan'"),
        ("feature,cost\na,inf\nb,2\n", "line 2 of .* says 'inf'"),
        (f"feature,cost\na,1\nb,{'9' * 400}\n", "line 3 of .* says '9{40}'"),
        ("feature,cost\na,1_0\nb,2\n", "line 2 of .* says '1_0'"),
        ("feature,cost\na,²\nb,2\n", "line 2 of .* says '²'"),
        ("feature,cost\na,\nb,2\n", "line 2 of .* says ''"),
        ("feature,cost\na,1,5\nb,2\n", "line 2 of .* has 3 fields"),
        ("feature,cost\na\nb,2\n", "line 2 of .* has 1 fields"),
        ("feature,cost\na,1\nb,2\n\na,3\n", "name 'a' twice, in lines 2 and 5"),
        ("feature,cost,cost\na,1,2\nb,2,3\n", "columns feature, cost"),
        ("", "columns feature, cost"),
        (b"\xff\xff", "columns feature, cost"),
    ],
)
def test_costs_are_refused_by_line(tmp_path, content, message):
    (tmp_path / "costs.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_costs(tmp_path / "costs.csv", ["a", "b"])


def test_files_with_names_as_they_were_written_before_are_read(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 2))
    forest = RandomForestClassifier(2).fit(x, x[:, 0] > 0)
    forest.feature_names = ["a", "b"]
    skops.io.dump(forest, tmp_path / "m.skops")
    back = load_forest(tmp_path / "m.skops")
    assert back.feature_names_in_.tolist() == ["a", "b"] and not hasattr(back, "feature_names")
    assert np.array_equal(back.predict(pandas.DataFrame(x, columns=["a", "b"])), forest.predict(x))
