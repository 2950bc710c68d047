"""A recipe of any command: the same settings as on the command line, read from the keys of a YAML file."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.core.errors import RecipeError, SecateurError
from secateur.core.files import read_document
from secateur.evaluate.choices import PRUNING_DTYPES
from secateur.images.names import is_network
from secateur.registry import check_name, nearest
from secateur.run.methods import ALLOCATORS, METHODS, SAVE_DTYPES, check_pattern

__all__ = ["check_recipe_names", "check_steps", "is_made", "is_plain", "plain_recipe", "run_command"]

_DRAWN = ("samples", "length", "seed", "text_column")  # options that a plain recipe holds under `calibration`
_FLAGS = ("resume", "json", "trust_remote_code")
_OWN = dict.fromkeys(("model", "out", "timed_ratio"))  # what a run writes into its recipe by itself


def run_command(group: Any, settings: Mapping[str, Any]) -> Any:
    """Run the command that a mapping stands for: `command` names it, other keys are its options and arguments.

    Keys are spelled as options are, with _ for -. Each value is checked by the option that it is of: its kind, its
    range, its names. Returns what the command does. Raises RecipeError on an unknown command and on a key or value
    it does not take.
    """
    words = str(settings["command"]).split()
    command = _find(group, words)
    known = {_key(option): option for option in command.params}
    given: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "command" or value is None:
            continue
        if key not in known:
            raise RecipeError(f"command {' '.join(words)!r} has no key {key!r}{nearest(str(key), known)}")
        given[known[key].name] = _value(key, known[key], value)
    with command.make_context(words[-1], [], default_map=given) as context:
        return command.invoke(context)


def _find(group: Any, words: list[str]) -> Any:
    """The command of these words. Raises RecipeError where there is none."""
    command = group
    for word in words:
        names = [name for name in getattr(command, "commands", {}) if name != "run"]  # no recipe runs a recipe
        if word not in names:
            raise RecipeError(f"command {' '.join(words)!r} is unknown{nearest(word, names)}")
        command = command.commands[word]
    if hasattr(command, "commands"):
        raise RecipeError(f"command {' '.join(words)!r} is several: {', '.join(command.commands)}")
    return command


def _key(option: Any) -> str:
    return str(option.opts[0]).removeprefix("--").replace("-", "_")


def _value(key: str, option: Any, value: Any) -> Any:
    """The value as its option takes it: a text as on the command line, several where the option may be repeated."""
    flag = getattr(option, "is_flag", False)
    if flag != isinstance(value, bool) or isinstance(value, Mapping):
        raise RecipeError(f"key {key!r} wants {'true or false' if flag else 'a value'}, found {value!r}")
    if flag:
        return value
    if isinstance(value, list) != option.multiple and not option.multiple:
        raise RecipeError(f"key {key!r} takes one value, found {value!r}")
    texts = [str(item) for item in (value if isinstance(value, list) else [value])]
    if not all(text.strip() for text in texts):
        raise RecipeError(f"key {key!r} is empty: give it a value, or leave it out")
    return texts if option.multiple else texts[0]


def check_steps(recipe: Path, steps: Sequence[Any]) -> None:
    """Refuse a row of recipes that cannot run as one. Raises RecipeError with the file and the step."""
    if not steps:
        raise RecipeError(f"recipe {recipe} is an empty list: give at least one recipe")
    for number, step in enumerate(steps, 1):
        if not isinstance(step, dict) and len(steps) > 1:
            raise RecipeError(f"recipe {recipe}: step {number} is no mapping of keys, found {type(step).__name__}")
        if number < len(steps) and not isinstance(step.get("out"), str):
            raise RecipeError(f"recipe {recipe}: step {number} needs an out folder, which later steps can start from")
        if is_plain(step):
            check_recipe_names(recipe, step)


def is_plain(step: Any) -> bool:
    """Whether a recipe prunes a language model, and so takes the keys of `Recipe`."""
    if not isinstance(step, dict) or "command" not in step:
        return True
    return str(step["command"]).split() == ["prune"] and not is_network(str(step.get("model")))


def is_made(recipe: Path, step: Mapping[str, Any]) -> bool:
    """Whether an earlier run of the step has written its folder. Raises RecipeError where another recipe has."""
    if not isinstance(step.get("out"), str) or not (made := Path(step["out"])).is_dir():
        return False
    told = made / "result.json"
    if not is_plain(step) or not told.exists():
        return True
    from secateur.run.recipe import load_recipe  # torch takes seconds to import

    recorded = read_document(told).get("recipe")
    wanted = json.loads(json.dumps(load_recipe(recipe, plain_recipe(step)[0]).to_dict()))
    if recorded is not None and {**wanted, **_OWN} != {**recorded, **_OWN}:
        raise RecipeError(f"recipe {recipe}: {made} was made by another recipe: remove it, or name another out")
    return True


def check_recipe_names(recipe: Path, data: Any) -> None:
    """Refuse mistyped names of a plain recipe before anything heavy is imported. Raises RecipeError with the file."""
    known: dict[str, Iterable[str]] = {
        "method": METHODS,
        "allocator": ALLOCATORS,
        "dtype": PRUNING_DTYPES,
        "save_dtype": SAVE_DTYPES,
    }
    for key, value in (data if isinstance(data, dict) else {}).items():
        name = value.get("name") if isinstance(value, Mapping) else value
        try:
            if key in known and isinstance(name, str):
                check_name(key, name, known[key])
            if key == "pattern" and isinstance(name, str):
                check_pattern(name)
        except SecateurError as error:
            raise RecipeError(f"recipe {recipe}: {error}") from error


def plain_recipe(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bool]]:
    """A plain recipe's fields, and flags that are on, of a recipe whose `command` is prune.

    It takes what a plain recipe takes (a method with its fields, exempt blocks, ...), and the options of the
    command: how calibration is drawn, a file of ratios. Raises RecipeError on a flag that is neither true nor false.
    """
    fields = {key: value for key, value in settings.items() if key not in ("command", *_DRAWN, *_FLAGS)}
    drawn = {key: settings[key] for key in _DRAWN if key in settings}
    if drawn:
        given = fields.get("calibration", {})
        fields["calibration"] = drawn | (dict(given) if isinstance(given, Mapping) else {"source": given})
    if isinstance(fields.get("ratios"), str):
        from secateur.core.allocation import Allocation  # numpy takes a while: not for --help

        fields["ratios"] = dict(Allocation.load(Path(fields["ratios"])).ratios)
    flags = {key: settings[key] for key in _FLAGS if key in settings}
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise RecipeError(f"key {key!r} wants true or false, found {value!r}")
    return fields, flags
