import pytest
import typer
from typer.main import get_command

from secateur.cli.choices import one_of
from secateur.cli.main import app
from secateur.core.errors import RecipeError

CHOICES = {
    ("prune", "method"): "wanda",
    ("prune", "pattern"): "heads+channels",
    ("prune", "allocator"): "owl",
    ("prune", "dtype"): "bfloat16",
    ("prune", "save_dtype"): "float16",
    ("allocate", "allocator"): "knapsack",
    ("evaluate", "dtype"): "float32",
    ("bench", "engine"): "onnxruntime",
    ("export", "to"): "decilm",
}


@pytest.mark.parametrize(("place", "name"), CHOICES.items())
def test_shells_complete_names_and_show_their_lines(place, name):
    command = get_command(app).commands[place[0]]
    option = next(option for option in command.params if option.name == place[1])
    items = option.shell_complete(typer.Context(command), name[:3])
    assert name in [item.value for item in items] and all(item.help for item in items)


def test_names_outside_the_table_are_refused():
    check = one_of("colour", lambda: {"red": "a colour"}, "help", "panel").callback
    assert check("red") == "red" and check(None) is None
    with pytest.raises(RecipeError, match="colour 'rad' is unknown: did you mean 'red'"):
        check("rad")
