import json

import pytest

from secateur.core.errors import InputError
from secateur.deprune.recipe import DepruneRecipe


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "needs a budget in ms"),
        ({"budget": "0.5-ms", "ratio": 0.5}, "needs a budget in ms"),
        ({"budget": "0.5-macs"}, "a budget in ms, such as 0.6-ms"),
        ({"budget": "0.5-ms", "taps": "balanced"}, "taps run or none"),
        ({"ratio": 1.0}, "from 0 up to 1"),
        ({"ratio": float("nan")}, "from 0 up to 1"),
        ({"ratio": 0.5, "pointwise_ratio": -0.1}, "from 0 up to 1"),
        ({"budget": "0.5-ms", "pointwise_ratio": 0.1}, "goes with ratio"),
        ({"ratio": 0.5, "halves": True}, "taps balanced"),
        ({"ratio": 0.5, "taps": "none", "pointwise": "none"}, "nothing to remove"),
        ({"ratio": 0.5, "taps": "wheel"}, "taps 'wheel' is unknown"),
        ({"ratio": 0.5, "pointwise": "wheel"}, "pointwise 'wheel' is unknown"),
        ({"ratio": 0.5, "engine": "wheel"}, "engine 'wheel' is unknown"),
        ({"ratio": 0.5, "multiple": 0}, "multiple"),
        ({"ratio": 0.5, "least": 0.0}, "least"),
    ],
)
def test_what_does_not_fit_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        DepruneRecipe(**fields)


def test_the_same_share_of_channels_unless_said():
    assert DepruneRecipe(ratio=0.5).channels == 0.5
    assert DepruneRecipe(ratio=0.5, pointwise_ratio=0.0).channels == 0.0
    assert json.loads(json.dumps(DepruneRecipe(budget="4-ms").to_dict()))["budget"] == "4-ms"
