import json
import shutil

import numpy as np
import pandas
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import RandomForestClassifier

from secateur.core.errors import InputError
from secateur.forest.run import ForestOptions, Growth, Rows, fit_forest, prune_forest
from secateur.forest.table import load_forest, save_forest


def prune_on(model, data, target, out, options, *, costs=None, test=None, **settings):
    return prune_forest(model, Rows(data, target, costs, test), out, options, **settings)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forest")
    frame = load_breast_cancer(as_frame=True).frame
    frame.to_csv(folder / "data.csv", index=False)
    costs = pandas.DataFrame({"feature": frame.columns[:-1], "cost": 1.0 + np.arange(30) % 3})
    costs.to_csv(folder / "costs.csv", index=False)
    fit_forest(folder / "data.csv", "target", folder / "grown", costs=folder / "costs.csv", growth=Growth(trees=8))
    return folder


def test_a_forest_is_grown_measured_and_saved(files):
    found = json.loads((files / "grown" / "forest.json").read_text())
    assert found["rows"] == 455 and len(found["bills"]) == 114 and 0 < found["error"] < 0.15
    assert np.mean(found["bills"]) == pytest.approx(found["cost"]) and set(found["use"]) == set(found["columns"])
    assert load_forest(files / "grown" / "model.skops").n_estimators == 8


def test_a_budget_is_kept_and_a_path_has_a_model_a_corner(files, tmp_path):
    args = (files / "grown" / "model.skops", files / "data.csv", "target")
    found = prune_on(*args, tmp_path / "out", ForestOptions(budget=8.0), costs=files / "costs.csv")
    assert found["chosen"]["cost"] <= 8.0 < found["before"]["cost"]
    small = load_forest(tmp_path / "out" / "model.skops")
    frame = pandas.read_csv(files / "data.csv")
    said = small.predict(frame.drop(columns="target"))
    assert np.mean(said != frame["target"]) == pytest.approx(found["chosen"]["error"])
    path = prune_on(*args, tmp_path / "path", ForestOptions(points=5), test=files / "data.csv")["path"]
    costs = [point["cost"] for point in path]
    assert costs == sorted(costs) and len(list((tmp_path / "path").glob("*.skops"))) == len(path)
    traded = prune_on(*args, tmp_path / "traded", ForestOptions(trade_off=0.01, solver="lp"))
    assert traded["chosen"]["trade_off"] == 0.01


def test_numbers_are_predicted_too(tmp_path):
    load_diabetes(as_frame=True).frame.to_parquet(tmp_path / "d.parquet")
    found = fit_forest(tmp_path / "d.parquet", "target", tmp_path / "out", growth=Growth(trees=4, regression=True))
    assert found["model"] == "RandomForestRegressor" and found["error"] > 100


def test_what_does_not_fit_is_refused_and_leaves_nothing(files, tmp_path):
    model = files / "grown" / "model.skops"
    frame = pandas.read_csv(files / "data.csv")
    frame.iloc[:, 1:].to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(InputError, match="has 29 columns"):
        prune_on(model, tmp_path / "less.csv", "target", tmp_path / "out", ForestOptions(budget=1.0))
    with pytest.raises(InputError, match="at least 1 tree"):
        fit_forest(files / "data.csv", "target", tmp_path / "out", Growth(trees=0))
    frame["target"] = frame["target"].map({0: "no", 1: "yes"})
    frame.to_csv(tmp_path / "words.csv", index=False)
    with pytest.raises(InputError, match="regression predicts one"):
        fit_forest(tmp_path / "words.csv", "target", tmp_path / "out", Growth(regression=True))
    with pytest.raises(InputError, match="is unknown"):
        prune_on(model, files / "data.csv", "target", tmp_path / "out", ForestOptions(trade_off=0.1, solver="guess"))
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def halves(files):
    frame = pandas.read_csv(files / "data.csv").sample(frac=1.0, random_state=0)
    frame.iloc[:300].to_csv(files / "prune.csv", index=False)
    frame.iloc[300:].to_csv(files / "test.csv", index=False)
    return files


def test_peers_stand_beside_the_frontier_and_are_judged_on_other_rows(halves, tmp_path):
    model, options = halves / "grown" / "model.skops", ForestOptions(budget=8.0, points=4, peers=True)
    with pytest.raises(InputError, match="judged on them too: give --test"):
        prune_on(model, halves / "prune.csv", "target", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
    found = prune_on(
        model,
        halves / "prune.csv",
        "target",
        tmp_path / "out",
        options,
        costs=halves / "costs.csv",
        test=halves / "test.csv",
    )
    lines = found["peers"]
    assert len(lines["ccp_alpha"]) == 8 and len(lines["fewer features"]) > 5
    assert lines["fewer features"][0]["cost"] <= 3.0 < lines["fewer features"][-1]["cost"]
    assert lines["ccp_alpha"][-1]["nodes"] < lines["ccp_alpha"][0]["nodes"]
    assert min(one["error"] for one in lines["fewer features"]) > 0
    rows = (found["rows"], found["measured_rows"], len(found["bills"]))
    assert rows == (300, 269, 269) and "test.csv, which did not prune it" in found["measured_on"]


@pytest.mark.parametrize("budget", [0.0, 3.0, 5.0, 8.0, 12.0, 1e9])
def test_a_budget_takes_the_corner_of_least_error_within_it(halves, tmp_path, budget):
    for name, test in (("same", None), ("other", halves / "test.csv")):
        args = (halves / "grown" / "model.skops", halves / "prune.csv", "target", tmp_path / name)
        found = prune_on(*args, ForestOptions(budget=budget), costs=halves / "costs.csv", test=test)
        within = [point for point in found["path"] if point["cost"] <= budget]
        assert found["chosen"]["error"] == min(point["error"] for point in within)
        assert found["chosen"]["cost"] <= budget and found["chosen"]["corners"] == len(within)
        assert found["error"] == found["chosen"]["error"] and found["cost"] == found["chosen"]["cost"]
        assert ("prune it, of" in found["measured_on"]) == (test is None)


def test_columns_are_matched_by_name_in_any_table(halves, tmp_path):
    frame = pandas.read_csv(halves / "prune.csv")
    model, options = halves / "grown" / "model.skops", ForestOptions(budget=8.0, points=4)
    frame.assign(name="text")[[*frame.columns[::-1], "name"]].to_csv(tmp_path / "turned.csv", index=False)
    wanted = prune_on(model, halves / "prune.csv", "target", tmp_path / "a", options, costs=halves / "costs.csv")
    got = prune_on(model, tmp_path / "turned.csv", "target", tmp_path / "b", options, costs=halves / "costs.csv")
    assert got["path"] == wanted["path"] and got["bills"] == wanted["bills"] and got["use"] == wanted["use"]
    assert (tmp_path / "a" / "model.skops").read_bytes() == (tmp_path / "b" / "model.skops").read_bytes()
    frame.rename(columns={"mean area": "mean aera"}).to_csv(tmp_path / "renamed.csv", index=False)
    for data, test in (("renamed.csv", None), ("turned.csv", tmp_path / "renamed.csv")):
        with pytest.raises(InputError, match="renamed.csv: .*'mean area'.*the nearest is 'mean aera'"):
            prune_on(model, tmp_path / data, "target", tmp_path / "c", options, test=test)
    assert not (tmp_path / "c").exists()


def test_a_forest_without_names_takes_columns_in_order_and_says_so(halves, tmp_path):
    frame = pandas.read_csv(halves / "prune.csv")
    x, y = frame.drop(columns="target").to_numpy(), frame["target"].to_numpy()
    save_forest(RandomForestClassifier(3, random_state=0).fit(x, y), tmp_path / "model.skops")
    args = (tmp_path / "model.skops", halves / "prune.csv", "target")
    found = prune_on(*args, tmp_path / "out", ForestOptions(budget=8.0, points=3), costs=halves / "costs.csv")
    assert found["names"] == "none" and found["chosen"]["cost"] <= 8.0
    frame.iloc[:, 1:].to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(InputError, match="less.csv has 29 columns, and the forest wants 30"):
        prune_on(args[0], tmp_path / "less.csv", "target", tmp_path / "no", ForestOptions(budget=8.0))


def test_equal_runs_write_equal_bytes(halves, tmp_path):
    for name in ("a", "b"):
        fit_forest(halves / "data.csv", "target", tmp_path / f"grown-{name}", growth=Growth(trees=4))
        model = tmp_path / f"grown-{name}" / "model.skops"
        prune_on(model, halves / "prune.csv", "target", tmp_path / name, ForestOptions(budget=8.0, points=3))
    for folder, file in (("grown-", "model.skops"), ("grown-", "forest.json"), ("", "model.skops")):
        one, other = ((tmp_path / f"{folder}{name}" / file).read_bytes() for name in ("a", "b"))
        assert one == other


def test_labels_stay_what_they_are(tmp_path):
    frame = load_breast_cancer(as_frame=True).frame.iloc[:, -6:]
    for labels in (["007", "NA"], ["no", "yes"], ["010", "011"]):
        said = frame.assign(target=[labels[one] for one in frame["target"]])
        said.to_csv(tmp_path / "d.csv", index=False)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        fit_forest(tmp_path / "d.csv", "target", tmp_path / "out", growth=Growth(trees=2))
        model = tmp_path / "out" / "model.skops"
        assert load_forest(model).classes_.tolist() == sorted(labels)
        said.iloc[:100].to_csv(tmp_path / "part.csv", index=False)
        shutil.rmtree(tmp_path / "small", ignore_errors=True)
        found = prune_on(
            model, tmp_path / "part.csv", "target", tmp_path / "small", ForestOptions(trade_off=0.0, points=2)
        )
        assert found["error"] < 0.1
    numbers = frame.assign(target=frame["target"] + 10)
    numbers.to_csv(tmp_path / "n.csv", index=False)
    fit_forest(tmp_path / "n.csv", "target", tmp_path / "numbers", growth=Growth(trees=2))
    with pytest.raises(InputError, match="column 'target' of .*d.csv holds text such as '010'.*fitted on numbers"):
        said.assign(target=["010", *["b"] * (len(said) - 1)]).to_csv(tmp_path / "d.csv", index=False)
        prune_on(
            tmp_path / "numbers" / "model.skops",
            tmp_path / "n.csv",
            "target",
            tmp_path / "no",
            ForestOptions(trade_off=0.0),
            test=tmp_path / "d.csv",
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "a seed is a number from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "a seed is"),
        ({"jobs": 0}, "jobs is 1 or more, or -1"),
        ({"trees": -5}, "at least 1 tree"),
    ],
)
def test_numbers_out_of_range_are_refused_before_any_work(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        fit_forest(tmp_path / "none.csv", "y", tmp_path / "out", Growth(**settings))


@pytest.mark.parametrize(
    "settings", [{"budget": float("nan")}, {"budget": -1.0}, {"trade_off": float("inf")}, {"trade_off": float("nan")}]
)
def test_options_are_numbers_of_at_least_0(settings):
    with pytest.raises(InputError, match="should be a number of at least 0"):
        ForestOptions(**settings)
    with pytest.raises(InputError, match="at least 2 points"):
        ForestOptions(budget=1.0, points=1)


def test_numbers_are_no_classes_unless_they_are_whole(tmp_path):
    frame = load_diabetes(as_frame=True).frame
    (frame.assign(target=frame["target"] + 0.5)).to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(InputError, match=r"holds 151\.5, which is no class: add --regression"):
        fit_forest(tmp_path / "d.csv", "target", tmp_path / "out")
    fit_forest(tmp_path / "d.csv", "target", tmp_path / "out", growth=Growth(trees=2, regression=True))
    frame.assign(target="low").to_csv(tmp_path / "words.csv", index=False)
    with pytest.raises(InputError, match="holds no numbers, and regression predicts one"):
        prune_on(
            tmp_path / "out" / "model.skops",
            tmp_path / "words.csv",
            "target",
            tmp_path / "no",
            ForestOptions(budget=1.0),
        )


def test_what_finishes_the_folder_is_in_it_or_there_is_none(halves, tmp_path):
    def fail(found, folder):
        assert not (tmp_path / "out").exists() and (folder / "forest.json").exists()
        raise InputError("no figure")

    args = (halves / "grown" / "model.skops", halves / "prune.csv", "target", tmp_path / "out")
    with pytest.raises(InputError, match="no figure"):
        prune_on(*args, ForestOptions(budget=8.0, points=2), finish=fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_onnx_predicts_what_the_pruned_forest_does(files, tmp_path):
    pytest.importorskip("skl2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = files / "grown" / "model.skops"
    prune_on(model, files / "data.csv", "target", tmp_path / "out", ForestOptions(budget=8.0, points=3, onnx=True))
    x = pandas.read_csv(files / "data.csv").drop(columns="target").astype(np.float32)
    said = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx").run(None, {"X": x.to_numpy()})[0]
    assert np.array_equal(said, load_forest(tmp_path / "out" / "model.skops").predict(x))


HUGE = ["99999999999999999999", "-1e19", "1e99", "9007199254740993.0", "1e400", "-inf"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numbers_too_large_to_be_classes_are_refused_by_column_and_row(kind, value, tmp_path):
    draw = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": draw.random(40), "b": draw.random(40), "y": [0, 1] * 20})
    whole, file = tmp_path / "whole.csv", tmp_path / f"rows.{kind}"
    frame.to_csv(whole, index=False)
    labels = [*frame["y"].astype(str)[:-1], value]
    if kind == "csv":
        frame.assign(y=labels).to_csv(file, index=False)
    else:
        frame.assign(y=[float(label) for label in labels]).to_parquet(file)
    place = "line 41" if kind == "csv" else "row 40"
    with pytest.raises(InputError, match=rf"column 'y' of .*rows.{kind} holds '.*' in {place}.*: .*leave the row out"):
        fit_forest(file, "y", tmp_path / "f", growth=Growth(trees=3))
    fit_forest(whole, "y", tmp_path / "g", growth=Growth(trees=3))
    with pytest.raises(InputError, match="is none the forest was fitted on|leave the row out"):
        prune_on(tmp_path / "g" / "model.skops", file, "y", tmp_path / "p", ForestOptions(trade_off=0.1))
    if "inf" not in value and "400" not in value:
        assert fit_forest(file, "y", tmp_path / "r", growth=Growth(trees=3, regression=True))["error"] >= 0


@pytest.mark.filterwarnings("error")
def test_squares_of_32_bit_targets_do_not_overflow(tmp_path):
    draw = np.random.default_rng(0)
    y = np.array([0, 1] * 19 + [1e20] * 2, dtype=np.float32)
    pandas.DataFrame({"a": draw.random(40), "b": draw.random(40), "y": y}).to_parquet(tmp_path / "rows.parquet")
    found = fit_forest(tmp_path / "rows.parquet", "y", tmp_path / "f", growth=Growth(trees=3, regression=True, seed=1))
    assert np.isfinite(found["error"])


def test_a_weight_of_two_is_a_row_twice(tmp_path):
    frame = load_breast_cancer(as_frame=True).frame.iloc[:300, 20:]
    weight = np.arange(len(frame)) % 3
    frame.assign(often=weight).to_csv(tmp_path / "weighed.csv", index=False)
    frame.iloc[np.repeat(np.arange(len(frame)), weight)].to_csv(tmp_path / "repeated.csv", index=False)
    fit_forest(tmp_path / "weighed.csv", "target", tmp_path / "grown", Growth(trees=5), weight="often")
    model, options = tmp_path / "grown" / "model.skops", ForestOptions(budget=3.0)
    assert "often" not in load_forest(model).feature_names_in_
    rows = [Rows(tmp_path / "weighed.csv", "target", weight="often"), Rows(tmp_path / "repeated.csv", "target")]
    found = [prune_forest(model, given, tmp_path / str(number), options) for number, given in enumerate(rows)]
    assert found[0]["chosen"] == pytest.approx(found[1]["chosen"]) and found[0]["path"] == [
        pytest.approx(point) for point in found[1]["path"]
    ]
    assert found[0]["use"] == pytest.approx(found[1]["use"])


@pytest.mark.parametrize("grow", ["none", "static"])
def test_balanced_classes_weigh_alike(grow, tmp_path):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(600, 3))
    y = (x[:, 0] + draw.normal(size=600) > 2.0).astype(int)
    pandas.DataFrame(x, columns=list("abc")).assign(y=y).to_csv(tmp_path / "d.csv", index=False)
    for class_weight, share in ((None, y.mean()), ("balanced", 0.5)):
        budget = None if grow == "none" else 2.0
        growth = Growth(trees=10, class_weight=class_weight, grow=grow, budget=budget)
        fit_forest(tmp_path / "d.csv", "y", tmp_path / str(class_weight), growth)
        forest = load_forest(tmp_path / str(class_weight) / "model.skops")
        roots = [tree.tree_.value[0, 0, 1] for tree in forest.estimators_]
        assert forest.class_weight == class_weight and np.mean(roots) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, -1, 1, 1], "line 3: a weight is a number of at least 0"),
        ([1, "", 1, 1], "line 3: a weight is a number of at least 0"),
        ([0, 0, 0, 0], "weighs every row 0"),
        (["a", 1, 1, 1], "holds no numbers"),
    ],
)
def test_weights_that_are_none_are_refused(values, message, tmp_path):
    pandas.DataFrame({"a": range(4), "w": values, "y": [0, 1, 0, 1]}).to_csv(tmp_path / "d.csv", index=False)
    with pytest.raises(InputError, match=message):
        fit_forest(tmp_path / "d.csv", "y", tmp_path / "out", Growth(trees=2), weight="w")
    with pytest.raises(InputError, match="no column 'y' of weights beside its target"):
        fit_forest(tmp_path / "d.csv", "y", tmp_path / "out", Growth(trees=2), weight="y")
    with pytest.raises(InputError, match="regression has no classes to weigh"):
        Growth(regression=True, class_weight="balanced")
    assert not (tmp_path / "out").exists()
