import pytest

from secateur.core.errors import InputError, RecipeError
from secateur.images.recipe import NetworkRecipe
from secateur.run.methods import CHANNEL_METHODS
from secateur.score.filters import ChannelScore


@pytest.mark.parametrize("name", CHANNEL_METHODS)
def test_every_method_makes_a_score(name):
    assert isinstance(NetworkRecipe(method=name).score, ChannelScore) and CHANNEL_METHODS.lines()[name]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "tailor"}, "did you mean 'taylor'"),
        ({"budget": "half"}, "should look like"),
        ({"repair": "all"}, "repair 'all' is unknown"),
        ({"allocator": "owl"}, "allocator 'owl' is unknown"),
        ({"multiple": 0}, "at least 1"),
        ({"least": 1.5}, r"in 0\.\.1"),
    ],
)
def test_fields_outside_their_range_are_refused(fields, words):
    with pytest.raises((InputError, RecipeError), match=words):
        NetworkRecipe(**fields)


def test_repair_follows_method_and_pictures():
    assert NetworkRecipe(method="l1").repaired(pictures=False) is None
    assert not NetworkRecipe(method="l1").repaired(pictures=True).refit
    assert NetworkRecipe(method="refit").repaired(pictures=True).refit
    assert NetworkRecipe(method="refit", repair="none").repaired(pictures=True) is None
    with pytest.raises(InputError, match="needs pictures"):
        NetworkRecipe(method="refit").repaired(pictures=False)
