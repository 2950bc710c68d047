import json

import pytest
from safetensors.torch import load_file, save_file
from typer.main import get_command

from conftest import run
from secateur.cli.main import app
from secateur.core.errors import RecipeError
from secateur.core.files import read_settings
from secateur.run.recipe import load_recipe
from secateur.terminal.recipes import check_recipe_names, check_steps, is_made, plain_recipe, run_command


@pytest.fixture
def seen(monkeypatch):
    """What the next commands are called with, instead of being run."""
    calls = []

    def ran(self, context):
        calls.append({name: value for name, value in context.params.items() if value not in (None, ())})

    monkeypatch.setattr("typer._click.core.Command.invoke", ran)
    return calls


def test_keys_become_settings_of_their_kind(seen):
    group = get_command(app)
    run_command(group, {"command": "verify", "pruned": "b", "dense": "a", "json": True})
    assert seen[0] | {"as_json": True, "dense": "a", "pruned": "b"} == seen[0]
    run_command(group, {"command": "lottery", "target": "t", "eps": "1e-2", "non_negative": True, "out": None})
    assert seen[1]["eps"] == 0.01 and seen[1]["non_negative"] is True and "out" not in seen[1]
    run_command(
        group, {"command": "heads importance", "model": "m", "data": ["a", "b"], "normalise": False, "out": "o"}
    )
    assert list(seen[2]["data"]) == ["a", "b"] and seen[2]["normalise"] is False
    run_command(group, {"command": "forest fit", "data": 5, "target": "y", "out": "o", "regression": False})
    assert str(seen[3]["data"]) == "5" and str(seen[3]["out"]) == "o"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"command": "prnue"}, "command 'prnue' is unknown.*prune"),
        ({"command": "forest"}, "command 'forest' is several: fit, prune, report"),
        ({"command": "forest cut"}, "command 'forest cut' is unknown"),
        ({"command": "lottery extra"}, "command 'lottery extra' is unknown"),
        ({"command": "run", "recipe": "self.yaml"}, "command 'run' is unknown"),
        ({"command": "lottery", "epsilon": 1}, "command 'lottery' has no key 'epsilon'.*eps"),
        ({"command": "lottery", "plan": "yes"}, "key 'plan' wants true or false, found 'yes'"),
        ({"command": "lottery", "eps": True}, "key 'eps' wants a value, found True"),
        ({"command": "lottery", "eps": {"a": 1}}, "key 'eps' wants a value"),
        ({"command": "lottery", "eps": [0.1, 0.2]}, "key 'eps' takes one value"),
        ({"command": "lottery", "eps": " "}, "key 'eps' is empty"),
    ],
)
def test_mistakes_are_told_before_anything_runs(settings, message):
    with pytest.raises(RecipeError, match=message):
        run_command(get_command(app), settings)


def test_a_recipe_runs_its_command_and_what_the_line_says_stands_above_it(monkeypatch, capsys, tmp_path):
    (tmp_path / "r.yaml").write_text("command: lottery\nlayers: 5,3\nplan: true\neps: 1e-3\n")
    code, printed, err = run(monkeypatch, capsys, "run", tmp_path / "r.yaml", "--json")
    assert code == 0 and json.loads(printed)["layers"][0]["weights"] == 18, err
    code, _, err = run(monkeypatch, capsys, "run", tmp_path / "r.yaml", "--resume")
    assert code == 2 and "command 'lottery' has no key 'resume'" in " ".join(err.split())
    code, _, err = run(monkeypatch, capsys, "run", tmp_path / "r.yaml", "--out", tmp_path / "x")
    assert code == 2 and "--layers takes --plan" in " ".join(err.split()) and not (tmp_path / "x").exists()


def test_a_file_that_cannot_be_read_is_named_once(tmp_path):
    with pytest.raises(RecipeError) as told:
        load_recipe(tmp_path / "none.yaml")
    assert str(told.value).count("none.yaml cannot be read") == 1 and not str(told.value).count(": recipe ")


def test_a_recipe_that_lacks_an_argument_and_one_that_fails_end_as_the_command_itself_does(
    monkeypatch, capsys, tmp_path
):
    (tmp_path / "r.yaml").write_text("command: evaluate\ntasks: quiz.jsonl\n")
    code, _, err = run(monkeypatch, capsys, "run", tmp_path / "r.yaml")
    assert code == 2 and err.startswith("error: Missing argument 'model'.") and err.count("\n") == 1
    (tmp_path / "r.yaml").write_text("command: lottery\ntarget: none.safetensors\nplan: true\n")
    code, _, err = run(monkeypatch, capsys, "run", tmp_path / "r.yaml")
    assert code == 2 and "neither a .safetensors file" in err and err.count("\n") == 1


def test_a_recipes_command_keeps_its_exit_code(monkeypatch, capsys, saved, tmp_path):
    args = (
        "--method",
        "magnitude",
        "--pattern",
        "heads+channels",
        "--round-to",
        1,
        "--ratio",
        0.3,
        "--out",
        tmp_path / "small",
    )
    assert run(monkeypatch, capsys, "prune", saved("llama"), *args)[0] == 0
    file = tmp_path / "small" / "model.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(file).items()}, tmp_path / "m", {"format": "pt"})
    (tmp_path / "m").replace(file)
    (tmp_path / "v.yaml").write_text(f"command: verify\ndense: {saved('llama')}\npruned: {tmp_path / 'small'}\n")
    code, _, err = run(monkeypatch, capsys, "run", tmp_path / "v.yaml")
    assert code == 1 and "not the same" in err


def test_a_recipe_whose_command_is_prune_takes_what_a_plain_one_takes(monkeypatch, capsys, saved, text, tmp_path):
    common = f"model: {saved('llama')}\nmethod: {{name: sparsegpt, damp: 0.02}}\nratio: 0.3\nexempt: [0]\n"
    plain = common + f"calibration: {{source: {text}, samples: 4, length: 16, seed: 3}}\n"
    (tmp_path / "plain.yaml").write_text(plain + f"out: {tmp_path / 'a'}\n")
    named = f"command: prune\n{common}calibration: {text}\nsamples: 4\nlength: 16\nseed: 3\njson: true\n"
    (tmp_path / "named.yaml").write_text(named + f"out: {tmp_path / 'b'}\n")
    for name in ("plain", "named"):
        code, printed, err = run(monkeypatch, capsys, "run", tmp_path / f"{name}.yaml")
        assert code == 0 and (json.loads(printed)["sparsity"] > 0 if name == "named" else "removed" in printed), err
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(first[name].equal(second[name]) for name in first)


def test_ratios_may_be_a_file_and_flags_are_true_or_false(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"model.layers.0": 0.25}))
    fields, flags = plain_recipe({"command": "prune", "ratios": str(tmp_path / "r.json"), "resume": True})
    assert fields == {"ratios": {"model.layers.0": 0.25}} and flags == {"resume": True}
    with pytest.raises(RecipeError, match="key 'json' wants true or false, found 'yes'"):
        plain_recipe({"command": "prune", "json": "yes"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("method: wnda", "method 'wnda' is unknown: did you mean 'wanda'"),
        ("method: {name: wnda}", "did you mean 'wanda'"),
        ("pattern: chanels", "did you mean 'channels'"),
        ("allocator: owll", "did you mean 'owl'"),
        ("dtype: bfloat", "did you mean 'bfloat16'"),
    ],
)
def test_mistyped_names_of_a_recipe_are_refused_with_the_file(line, message, tmp_path):
    (tmp_path / "r.yaml").write_text(line)
    with pytest.raises(RecipeError, match=f"r.yaml: .*{message}"):
        check_recipe_names(tmp_path / "r.yaml", read_settings(tmp_path / "r.yaml"))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "is an empty list"),
        ([{"method": "wanda"}, {"method": "wanda"}], "step 1 needs an out folder"),
        ([{"out": "a"}, "wanda"], "step 2 is no mapping of keys, found str"),
        ([{"out": "a", "method": "wnda"}, {"out": "b"}], "did you mean 'wanda'"),
    ],
)
def test_rows_of_recipes_are_checked_before_the_first_runs(steps, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        check_steps(tmp_path / "r.yaml", steps)


def test_a_folder_of_another_command_is_taken_as_it_is(tmp_path):
    step = {"command": "train", "out": str(tmp_path / "out")}
    assert not is_made(tmp_path / "r.yaml", step)
    (tmp_path / "out").mkdir()
    assert is_made(tmp_path / "r.yaml", step)
