import numpy as np

from forest_cases import case
from secateur.forest.lazy import answer
from secateur.forest.usage import read_prices, used_features


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
