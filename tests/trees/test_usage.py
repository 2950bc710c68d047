import numpy as np
import pandas
import pytest

from forest_cases import brute_value, case
from secateur.core.errors import InputError
from secateur.trees.usage import answer, feature_names, in_order, named, read_prices, used_features


def test_bills_are_those_of_walking_every_example():
    one = case(6, trees=4)
    used = used_features(one.arrays, one.x)
    prices = read_prices(6, one.cost, one.group)
    everything = np.ones(len(one.program.gain), bool)
    assert prices.bill(used).mean() == pytest.approx(brute_value(one, everything)[1])
    for row in range(5):
        nodes = [node for node in one.path(row) if one.arrays.steps.feature[node] >= 0]
        assert set(np.flatnonzero(used[row])) == {int(one.arrays.steps.feature[node]) for node in nodes}


def test_prices_by_feature_by_group_and_by_name():
    assert read_prices(3).cost.tolist() == [1, 1, 1]
    named = read_prices(3, {"a": 2, "b": 5.0}, ["b", "a", "b"])
    assert named.cost.tolist() == [2, 5] and named.group.tolist() == [1, 0, 1]
    assert named.bill(np.array([[True, False, True], [False, True, False]])).tolist() == [5, 2]


@pytest.mark.parametrize(
    ("costs", "groups", "message"),
    [
        ([1, 2], None, "should hold 3 numbers"),
        ([1, 2, -1], None, "at least 0"),
        ([1, 2, np.nan], None, "at least 0"),
        (None, ["a"], "names 1 features, and there are 3"),
        ({"a": 1}, ["a", "b", "b"], "no price for 'b'"),
    ],
)
def test_prices_that_do_not_fit_are_refused(costs, groups, message):
    with pytest.raises(InputError, match=message):
        read_prices(3, costs, groups)


def test_only_what_nodes_ask_for_is_bought_once():
    one = case(8, trees=4)
    prices = read_prices(6, one.cost, one.group)
    used = used_features(one.arrays, one.x)
    for row in range(10):
        asked = []

        def acquire(feature, row=row, asked=asked):
            asked.append(feature)
            return one.x[row, feature]

        value, bill = answer(one.arrays, prices, acquire)
        assert np.allclose(value, one.forest.predict_proba(one.x[row : row + 1])[0])
        assert sorted(asked) == np.flatnonzero(used[row]).tolist() and bill.features == asked
        assert bill.cost == prices.bill(used[row : row + 1])[0]


def test_a_group_is_bought_whole():
    one = case(8, trees=4)
    prices = read_prices(6, one.cost, one.group)
    asked = []

    def acquire(feature):
        asked.append(int(one.group[feature]))
        return {int(f): one.x[0, f] for f in np.flatnonzero(one.group == one.group[feature])}

    value, _ = answer(one.arrays, prices, acquire)
    assert len(asked) == len(set(asked)) and np.allclose(value, one.forest.predict_proba(one.x[:1])[0])


def test_features_without_a_group_are_bought_alone():
    prices = read_prices(5, [5.0, 1.0, 2.0, 3.0], ["scan", None, np.nan, "scan", " "])
    assert prices.group.tolist() == [0, 1, 2, 0, 3] and prices.cost.tolist() == [5, 1, 2, 3]
    assert prices.bill(np.ones((1, 5), bool)).tolist() == [11.0]
    named = read_prices(3, {"scan": 5, "age": 1}, {"x": "scan", "y": "scan"}, ["age", "x", "y"])
    assert named.cost.tolist() == [5, 1] and named.group.tolist() == [1, 0, 0]
    with pytest.raises(InputError, match="has the name of a feature"):
        read_prices(2, {"x": 1}, ["x", None], ["y", "x"])


def test_costs_go_by_name_or_by_number():
    series = pandas.Series([3.0, 1.0, 2.0], index=["c", "a", "b"])
    assert read_prices(3, series, names=["a", "b", "c"]).cost.tolist() == [1, 2, 3]
    assert read_prices(3, {"007": 1, "NA": 2, "1e5": 3}, names=["NA", "1e5", "007"]).cost.tolist() == [2, 3, 1]
    assert read_prices(2, {2019: 1, 2020: 2}, names=["2020", "2019"]).cost.tolist() == [2, 1]
    assert read_prices(3, pandas.Series([3.0, 1.0, 2.0])).cost.tolist() == [3, 1, 2]
    assert read_prices(2, pandas.Series([3.0, 1.0], index=[1, 0])).cost.tolist() == [1, 3]
    with pytest.raises(InputError, match="names 'c', and nothing here is called that"):
        read_prices(3, series)
    with pytest.raises(InputError, match="as a number and as text"):
        read_prices(1, {1: 2.0, "1": 3.0}, names=["1"])


def test_tables_are_put_in_order():
    frame = pandas.DataFrame({"b": [1.0], "a": [2.0], "more": [3.0]})
    assert in_order(frame, ["a", "b"]).to_numpy().tolist() == [[2, 1]]
    assert in_order(frame, None) is frame and in_order(frame.to_numpy(), ["a"]).shape == (1, 3)
    assert in_order(pandas.DataFrame([[1, 2]], columns=[1, 0]), None).to_numpy().tolist() == [[2, 1]]
    assert list(in_order(pandas.DataFrame([[1, 2]], columns=[7, "x"]), None).columns) == ["7", "x"]
    spaced = pandas.DataFrame({"a b": [1.0], "c": [2.0]})
    assert in_order(spaced, ["c", "a_b"], spaces=False).to_numpy().tolist() == [[2, 1]]
    with pytest.raises(InputError, match="none is 'a_b'.*the nearest is 'a b'"):
        in_order(spaced, ["c", "a_b"])
    assert feature_names(object()) is None and named(frame, None) is frame
