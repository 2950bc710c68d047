"""Write the pages of docs/reference that follow from the code: python docs/generate.py [--check].

--check writes nothing, and ends with exit code 1 where a page is not what the code says.
"""

import argparse
import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

import secateur
from secateur import Calibration, NetworkRecipe, Recipe
from secateur.cli.main import app
from secateur.deprune.recipe import DepruneRecipe
from secateur.train.reconstruct import Reconstruction

OUT = Path(__file__).parent / "reference"
MADE = "<!-- Made by `python docs/generate.py`. Change the code instead. -->\n\n"
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
TRIED = {
    "unstructured": "single weights",
    "n:m": "2:4",
    "units": "heads and channels",
    "experts": "experts",
    "perplexity": "perplexity",
}
RECIPES = {
    "Language models": (Recipe, "The keys of a recipe without `command:`, and the fields of `secateur.Recipe`."),
    "Calibration": (Calibration, "The keys under `calibration:`."),
    "Reconstruction": (Reconstruction, "The keys under `reconstruct:`, where it is not a number of steps."),
    "Image networks": (NetworkRecipe, "The fields of `secateur.NetworkRecipe`."),
    "DEPrune": (DepruneRecipe, "The fields of `DepruneRecipe`."),
}


def cell(text: object) -> str:
    """Text that stands in a table."""
    return " ".join(str(text).replace("|", "\\|").split())


def cli_page() -> str:
    """Every command and option."""
    parts = [
        "# Command line\n",
        "Options before the command: `--version`, `--verbose` (`-v`), `--quiet` (`-q`), `--log-to FILE`, "
        "`--tensorboard DIR`.\n",
        "A recipe may hold `command: NAME` and the options of that command as keys, with `_` for `-`.\n",
    ]
    return MADE + "\n".join(
        [*parts, *(line for name, one in commands(get_command(app)) for line in section(name, one))]
    )


def commands(group: Any, words: str = "secateur") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, in the order of the help."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{words} {name}")
        else:
            yield f"{words} {name}", command


def section(name: str, command: Any) -> Iterator[str]:
    """One command: what it does, how it is called, its options."""
    words = [one.name.upper() if one.required else f"[{one.name.upper()}]" for one in arguments(command)]
    yield f"## {name}\n\n{cell(command.help)}\n"
    yield f"    {' '.join([name, *words])} [OPTIONS]\n"
    for one in arguments(command):
        yield f"- `{one.name.upper()}`: {cell(one.help)}"
    yield "\n| option | default | what it does |\n|---|---|---|"
    for option in command.params:
        if option.param_type_name == "option" and option.name != "help":
            names = " ".join(f"`{each}`" for each in (*option.opts, *option.secondary_opts))
            default = "required" if option.required else "" if option.default in (None, False, ()) else option.default
            yield f"| {names} | {cell(default)} | {cell(option.help)} |"
    yield ""


def arguments(command: Any) -> list[Any]:
    """The arguments of a command."""
    return [one for one in command.params if one.param_type_name == "argument"]


def recipe_page() -> str:
    """Every key of a recipe."""
    lines = [
        "# Recipes\n",
        "A recipe is a YAML file. `secateur run FILE` runs it, and `result.json` holds the one of a run.\n",
    ]
    for head, (kind, words) in RECIPES.items():
        lines += [f"## {head}\n", f"{words}\n", "| key | default | what it means |", "|---|---|---|"]
        told = field_words(kind)
        for field in dataclasses.fields(kind):
            lines.append(f"| `{field.name}` | {cell(default(field))} | {cell(told.get(field.name, ''))} |")
        lines.append("")
    return MADE + "\n".join(lines)


def default(field: Any) -> str:
    """A field's default as YAML has it."""
    if field.default is dataclasses.MISSING:
        return (
            "" if field.default_factory is dataclasses.MISSING else "see its table" if "alib" in field.name else "none"
        )
    return {None: "none", (): "none"}.get(field.default, str(field.default).lower())


def field_words(kind: type) -> dict[str, str]:
    """The sentences of a docstring by field: `name: words`, up to the next name or an empty line."""
    names = "|".join(field.name for field in dataclasses.fields(kind))
    text = inspect.getdoc(kind) or ""
    found = re.findall(rf"(?:^|\s)({names}):\s(.*?)(?=\s(?:{names}):\s|\n\n|\Z)", text, re.DOTALL)
    return {name: words.strip() for name, words in found}


def api_page() -> str:
    """Every public name, for mkdocstrings."""
    lines = ["# Python\n", "`import secateur` takes no time: a name is imported when you first use it.\n"]
    for name in sorted(secateur.__all__, key=str.lower):
        lines.append(f"::: {secateur._MODULES[name]}.{name}\n")
    return MADE + "\n".join(lines)


def decoders_page() -> str:
    """Every type of decoder that was tried, and what came of it."""
    rows = json.loads((RESULTS / "coverage.json").read_text())["types"]
    lines = [
        "# Types of models\n",
        "What `benchmarks/decoders.py` measured on a tiny random model of every type that transformers has "
        "([how](../decoders.md)). A type that is not here may work too: nothing depends on its name.\n",
        *tried(rows, list(TRIED)),
    ]
    heads = {"classifier": "Classifiers of sequences", "wrapper": "Text parts of wrappers of text and pictures"}
    heads["pictures"] = "Classifiers of pictures"
    for task, rows in json.loads((RESULTS / "readers.json").read_text())["types"].items():
        lines += [f"## {heads[task]}\n", *tried(rows, ["unstructured", "n:m", "units"])]
    return MADE + "\n".join(lines)


def tried(rows: dict[str, Any], trials: list[str]) -> Iterator[str]:
    """A table of types, and whether each trial of one passed."""
    yield f"| type | {' | '.join(TRIED[trial] for trial in trials)} | where not |"
    yield f"|---|{'---|' * (len(trials) + 1)}"
    for name, row in rows.items():
        told = [row.get(trial, {"ok": None}) for trial in trials]
        words = (cell(one.get("refused") or one.get("error") or "differs") for one in told if one["ok"] is False)
        why = "; ".join(dict.fromkeys(words)) if row["built"] else f"not built: {cell(row['why'])}"
        answers = ({True: "yes", False: "no", None: "-"}[one["ok"]] for one in told)
        yield f"| {name} | {' | '.join(answers)} | {why[:300]} |"
    yield ""


PAGES = {"cli.md": cli_page, "recipe.md": recipe_page, "api.md": api_page, "decoders.md": decoders_page}


def main() -> None:
    """Write or check every page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [name for name, page in PAGES.items() if not (OUT / name).exists() or (OUT / name).read_text() != page()]
    if check and stale:
        raise SystemExit(f"run python docs/generate.py: {', '.join(stale)} differ from the code")
    for name in () if check else PAGES:
        OUT.mkdir(exist_ok=True)
        (OUT / name).write_text(PAGES[name]())


if __name__ == "__main__":
    main()
