import pytest
import typer
from typer.main import get_command

from secateur.cli.main import app
from secateur.core.errors import RecipeError
from secateur.evaluate.choices import HEAD_SCORES
from secateur.forest.pruner import SOLVERS
from secateur.growth.candidates import GROW
from secateur.heads.scoring import SCORES
from secateur.lottery.plan import _DISTRIBUTIONS, _SAMPLINGS
from secateur.terminal.choices import FOREST_GROWTHS, FOREST_SOLVERS, LAWS, SAMPLINGS, one_of

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
    ("export", "quantize"): "q8_0",
    ("heads prune", "score"): "ablation",
    ("forest prune", "solver"): "primal_dual",
    ("lottery", "law"): "uniform",
    ("lottery", "sampling"): "per-input",
}


@pytest.mark.parametrize(("place", "name"), CHOICES.items())
def test_shells_complete_names_and_show_their_lines(place, name):
    command = get_command(app)
    for word in place[0].split():
        command = command.commands[word]
    option = next(option for option in command.params if option.name == place[1])
    items = option.shell_complete(typer.Context(command), name[:3])
    assert name in [item.value for item in items] and all(item.help for item in items)


def test_names_outside_the_table_are_refused():
    check = one_of("colour", lambda: {"red": "a colour"}, "help", "panel").callback
    assert check("red") == "red" and check(None) is None
    with pytest.raises(RecipeError, match="colour 'rad' is unknown: did you mean 'red'"):
        check("rad")


def test_names_of_the_islands_are_those_of_their_own_tables():
    assert list(FOREST_SOLVERS) == list(SOLVERS)
    assert tuple(FOREST_GROWTHS) == GROW
    assert list(LAWS) == list(_DISTRIBUTIONS) and list(SAMPLINGS) == list(_SAMPLINGS)
    assert tuple(HEAD_SCORES) == SCORES
