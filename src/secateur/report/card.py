"""The model card beside a saved model: README.md with the metadata that hubs read, and what was done to the model."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from secateur.core.errors import InputError
from secateur.report.runs import read_record

__all__ = ["model_card", "write_card"]

_log = logging.getLogger(__name__)
_LARGEST = 1 << 20  # bytes of a base model's card that are read
_LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "NOTICE", "NOTICE.txt", "USE_POLICY.md")
_KEPT = ("license", "license_name", "license_link", "language")  # metadata of the base that stay true
_LOAD = 'import secateur\n\nmodel = secateur.load("FOLDER")'
_STATED = "This model keeps the licence of the base model, as the metadata above state it."
_UNSTATED = "This model keeps the licence of the base model. Its folder states none: look it up before you publish."
_FOREST = "from pathlib import Path\n\nfrom secateur.forest.table import load_forest\n\n"
_USE = {"forest": f'{_FOREST}forest = load_forest(Path("FOLDER/model.skops"))'}
_LIBRARIES = {"image network": "pytorch", "forest": "scikit-learn"}


def write_card(folder: Path, name: str, base: Path | None = None) -> None:
    """Write README.md into a new model folder whose record is written, and copy the base model's licence files.

    name: what the model is called. base: the folder it was made from, whose card tells licence and languages.
    Nothing that is there is overwritten.
    """
    target = folder / "README.md"
    if target.exists():
        return
    if base is not None:
        for licence in _LICENCES:
            source = base / licence
            if source.is_file() and not source.is_symlink() and not (folder / licence).exists():
                shutil.copyfile(source, folder / licence)
    try:
        run = read_record(folder)
    except InputError as error:  # a card must not cost the run that it is about
        _log.warning("the card of %s holds no figures: %s", name, error)
        run = dict.fromkeys(("pairs", "facts"), ()) | {"kind": "a run", "recipe": "", "versions": {}}
    target.write_text(model_card(run, name, _metadata(base)), encoding="utf-8")


def model_card(run: Mapping[str, Any], name: str, base: Mapping[str, Any]) -> str:
    """The card as Markdown. base: metadata of the base model's own card."""
    model = str(run.get("model") or "")
    about: dict[str, Any] = {key: base[key] for key in _KEPT if key in base}
    if "/" in model and not model.startswith((".", "/", "~")) and not Path(model).exists():
        about |= {"base_model": model, "base_model_relation": "finetune"}
    about |= {"library_name": _LIBRARIES.get(run["kind"], "transformers"), "tags": ["secateur", "pruning"]}
    parts = [f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---\n", f"# {_plain(name)}\n"]
    parts.append(f"Made from `{_plain(model) or 'a model in memory'}` by secateur ({run['kind']}).\n")
    if run["pairs"]:
        rows = [(pair["label"], _figure(pair["before"]), _figure(pair["after"]), pair["unit"]) for pair in run["pairs"]]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        parts.append("\n".join(["| | before | after | unit |", "|---|---|---|---|", *lines]) + "\n")
    for fact in run["facts"]:
        if fact["label"] not in ("time", "peak memory"):
            parts.append(f"- {fact['label']}: {_figure(fact['value'])} {fact['unit']}".rstrip())
    if run["recipe"]:
        parts.append(f"\n## Recipe\n\n```yaml\n{run['recipe'].replace('```', '` ` `')}```\n")
    parts.append(f"## Use\n\n```python\n{_USE.get(run['kind'], _LOAD)}\n```\n")
    parts.append(f"## Licence\n\n{_STATED if 'license' in about else _UNSTATED}\n")
    if run["versions"]:
        parts.append("Versions: " + ", ".join(f"{key} {value}" for key, value in run["versions"].items()) + ".")
    return "\n".join(parts).rstrip() + "\n"


def _metadata(base: Path | None) -> dict[str, Any]:
    """The front matter of a base model's card, texts and lists of texts alone; nothing where there is none."""
    card = None if base is None else base / "README.md"
    if card is None or not card.is_file() or card.stat().st_size > _LARGEST:
        return {}
    text = card.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return {}
    try:
        found = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError:  # a card that hubs cannot read either
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str) or _texts(value)}


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _plain(text: str) -> str:
    """Text as one line without what would be markup."""
    return " ".join("".join(sign for sign in text if sign.isprintable()).replace("`", "'").replace("<", "(").split())


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1e5 else f"{value:,.4g}"
