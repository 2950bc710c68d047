import json

import numpy as np
import pandas
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes

from secateur.core.errors import InputError
from secateur.forest.session import Wish, fit_forest, prune_forest
from secateur.forest.table import load_forest


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forest")
    frame = load_breast_cancer(as_frame=True).frame
    frame.to_csv(folder / "data.csv", index=False)
    costs = pandas.DataFrame({"feature": frame.columns[:-1], "cost": 1.0 + np.arange(30) % 3})
    costs.to_csv(folder / "costs.csv", index=False)
    fit_forest(folder / "data.csv", "target", folder / "grown", costs=folder / "costs.csv", trees=8)
    return folder


def test_a_forest_is_grown_measured_and_saved(files):
    found = json.loads((files / "grown" / "forest.json").read_text())
    assert found["rows"] == 455 and len(found["bills"]) == 114 and 0 < found["error"] < 0.15
    assert np.mean(found["bills"]) == pytest.approx(found["cost"]) and set(found["use"]) == set(found["columns"])
    assert load_forest(files / "grown" / "model.skops").n_estimators == 8


def test_a_budget_is_kept_and_a_path_has_a_model_a_corner(files, tmp_path):
    args = (files / "grown" / "model.skops", files / "data.csv", "target")
    found = prune_forest(*args, tmp_path / "out", Wish(budget=8.0), costs=files / "costs.csv")
    assert found["chosen"]["cost"] <= 8.0 < found["before"]["cost"]
    small = load_forest(tmp_path / "out" / "model.skops")
    frame = pandas.read_csv(files / "data.csv")
    said = small.predict(frame.drop(columns="target").to_numpy())
    assert np.mean(said != frame["target"]) == pytest.approx(found["chosen"]["error"])
    path = prune_forest(*args, tmp_path / "path", Wish(points=5), test=files / "data.csv")["path"]
    costs = [point["cost"] for point in path]
    assert costs == sorted(costs) and len(list((tmp_path / "path").glob("*.skops"))) == len(path)
    traded = prune_forest(*args, tmp_path / "traded", Wish(trade_off=0.01, solver="lp"))
    assert traded["chosen"]["trade_off"] == 0.01


def test_numbers_are_predicted_too(tmp_path):
    load_diabetes(as_frame=True).frame.to_parquet(tmp_path / "d.parquet")
    found = fit_forest(tmp_path / "d.parquet", "target", tmp_path / "out", trees=4, regression=True)
    assert found["model"] == "RandomForestRegressor" and found["error"] > 100


def test_what_does_not_fit_is_refused_and_leaves_nothing(files, tmp_path):
    model = files / "grown" / "model.skops"
    frame = pandas.read_csv(files / "data.csv")
    frame.iloc[:, 1:].to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(InputError, match="has 29 columns"):
        prune_forest(model, tmp_path / "less.csv", "target", tmp_path / "out", Wish(budget=1.0))
    with pytest.raises(InputError, match="at least 1 tree"):
        fit_forest(files / "data.csv", "target", tmp_path / "out", trees=0)
    frame["target"] = frame["target"].map({0: "no", 1: "yes"})
    frame.to_csv(tmp_path / "words.csv", index=False)
    with pytest.raises(InputError, match="regression predicts one"):
        fit_forest(tmp_path / "words.csv", "target", tmp_path / "out", regression=True)
    with pytest.raises(InputError, match="is unknown"):
        prune_forest(model, files / "data.csv", "target", tmp_path / "out", Wish(trade_off=0.1, solver="guess"))
    assert not (tmp_path / "out").exists()


def test_peers_stand_beside_the_frontier(files, tmp_path):
    model = files / "grown" / "model.skops"
    wish = Wish(budget=8.0, points=4, peers=True)
    found = prune_forest(model, files / "data.csv", "target", tmp_path / "out", wish, costs=files / "costs.csv")
    lines = found["peers"]
    assert len(lines["ccp_alpha"]) == 8 and len(lines["fewer features"]) > 5
    assert lines["fewer features"][0]["cost"] <= 3.0 < lines["fewer features"][-1]["cost"]
    assert lines["ccp_alpha"][-1]["nodes"] < lines["ccp_alpha"][0]["nodes"]


@pytest.mark.filterwarnings("ignore")
def test_onnx_predicts_what_the_pruned_forest_does(files, tmp_path):
    pytest.importorskip("skl2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = files / "grown" / "model.skops"
    prune_forest(model, files / "data.csv", "target", tmp_path / "out", Wish(budget=8.0, points=3, onnx=True))
    x = pandas.read_csv(files / "data.csv").drop(columns="target").to_numpy(np.float32)
    said = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx").run(None, {"X": x})[0]
    assert np.array_equal(said, load_forest(tmp_path / "out" / "model.skops").predict(x))
