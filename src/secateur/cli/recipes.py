"""A recipe of any command: its options, written as the keys of a YAML file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from secateur.core.allocation import Allocation
from secateur.core.errors import RecipeError
from secateur.registry import nearest

__all__ = ["as_arguments", "plain_recipe"]

_DRAWN = ("samples", "length", "seed", "text_column")  # options that a plain recipe holds under `calibration`
_FLAGS = ("resume", "json", "trust_remote_code")


def as_arguments(group: Any, settings: Mapping[str, Any]) -> list[str]:
    """The command line that a mapping stands for: `command` names it, other keys are its options and arguments.

    Keys are spelled as options are, with _ for -; true turns a flag on, and a list repeats an option.
    Raises RecipeError on an unknown command and on a key or value it does not take.
    """
    words = str(settings["command"]).split()
    known = {_key(option): option for option in _find(group, words).params}
    options: list[str] = []
    positional: dict[str, str] = {}
    for key, value in settings.items():
        if key == "command" or value is None:
            continue
        if key not in known:
            raise RecipeError(f"command {' '.join(words)!r} has no key {key!r}{nearest(str(key), known)}")
        if known[key].param_type_name == "argument":
            positional[key] = str(value)
        else:
            options += _option(key, known[key], value)
    return [*words, *options, "--", *(positional[key] for key in known if key in positional)]


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


def _option(key: str, option: Any, value: Any) -> Iterator[str]:
    if option.is_flag != isinstance(value, bool) or isinstance(value, Mapping):
        wanted = "true or false" if option.is_flag else "a value"
        raise RecipeError(f"key {key!r} wants {wanted}, found {value!r}")
    if option.is_flag:
        yield from option.opts[:1] if value else option.secondary_opts[:1]
        return
    for item in value if isinstance(value, list) else [value]:
        yield from (option.opts[0], str(item))


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
        fields["ratios"] = dict(Allocation.load(Path(fields["ratios"])).ratios)
    flags = {key: settings[key] for key in _FLAGS if key in settings}
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise RecipeError(f"key {key!r} wants true or false, found {value!r}")
    return fields, flags
