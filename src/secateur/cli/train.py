"""Command train: masks of a language model that are learned, or a network that is pruned while it learns."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.images import Factory, Run, Weights, open_by, refuse, train_network
from secateur.core.errors import InputError
from secateur.core.files import check_output
from secateur.images.names import is_network
from secateur.registry import check_name
from secateur.terminal.console import (
    AMOUNT,
    DATA,
    MACHINE,
    OUTPUT,
    RESUME,
    WHAT,
    AsJson,
    Column,
    Resume,
    Trust,
    check_names,
    resumable,
    say,
    text_option,
)
from secateur.terminal.progress import progress

__all__ = ["train"]

_TRAINING, _OWN = "Training", "Language models"
_METHODS = {
    "maskllm": "masks of a language model",
    "s2h": "widths and weights of a network",
    "finetune": "weights of a network",
    "reconstruct": "weights of a pruned network",
}
_Trained = Annotated[
    str,
    typer.Argument(
        help="A language model as prune takes it; or timm:NAME, torchvision:NAME, package.module:factory or a folder."
    ),
]
_Method = Annotated[
    str | None,
    typer.Option(
        help="maskllm learns n:m masks of a language model; s2h widths and weights of a network; finetune weights; "
        "reconstruct those of pruned parts, each by what --teacher's puts out.",
        rich_help_panel=WHAT,
    ),
]
_Pictures = Annotated[
    str | None, typer.Option(help="Folder or .zip of pictures, a folder for each class.", rich_help_panel=DATA)
]
_Tested = Annotated[str | None, typer.Option(help="Other pictures, to measure top-1.", rich_help_panel=DATA)]
_Out = Annotated[str, typer.Option(help="Folder to write; must not exist yet.", rich_help_panel=OUTPUT)]
_Target = Annotated[
    str | None,
    typer.Option(help="What s2h leaves of the network, such as 0.3-macs; default is 0.5-macs.", rich_help_panel=AMOUNT),
]
_Multiple = Annotated[
    int | None,
    typer.Option(min=1, help="Widths are multiples of this number; default is 4.", rich_help_panel=AMOUNT),
]
_Distill = Annotated[
    str | None,
    typer.Option(help="Of s2h: both (the default), weights or none.", rich_help_panel=_TRAINING),
]
_Epochs = Annotated[
    int | None,
    typer.Option(min=1, help="Rounds through the pictures; default is 20.", rich_help_panel=_TRAINING),
]
_Samples = Annotated[
    int | None,
    typer.Option(
        min=2, help="Pictures that are drawn; default is all, and 512 of reconstruct.", rich_help_panel=_TRAINING
    ),
]
_Batch = Annotated[
    int | None,
    typer.Option(min=1, help="Pictures in a step (64), or windows of text (2).", rich_help_panel=_TRAINING),
]
_Rate = Annotated[
    float | None,
    typer.Option(help="Peak learning rate: 0.1, 0.001 of reconstruct, or 0.002 of masks.", rich_help_panel=_TRAINING),
]
_Teacher = Annotated[
    str | None,
    typer.Option(
        help="Of finetune: a network to learn from too. Of reconstruct: the dense one.", rich_help_panel=_TRAINING
    ),
]
_Teaching = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="The teacher's share of the loss, default 0.5; with 1, pictures need no classes.",
        rich_help_panel=_TRAINING,
    ),
]
_Norms = Annotated[
    bool | None,
    typer.Option(
        "--norms/--keep-norms", help="Of finetune: whether batch norms follow the pictures.", rich_help_panel=_TRAINING
    ),
]
_Seed = Annotated[int, typer.Option(min=0, help="Fixes all that is drawn.", rich_help_panel=_TRAINING)]
_Classes = Annotated[
    int | None, typer.Option(min=2, help="Classes of a network that is made anew.", rich_help_panel=MACHINE)
]
_Text = Annotated[str | None, text_option(DATA)]
_NM = Annotated[
    str | None,
    typer.Option(help="n:m, how many of m weights stay; default is 2:4.", rich_help_panel=AMOUNT),
]
_Prior = Annotated[
    str | None,
    typer.Option(
        help="Masks to start from: magnitude, wanda, sparsegpt (the default), a folder that prune wrote, or none.",
        rich_help_panel=_OWN,
    ),
]
_Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Steps, of every block where --scope is block; default is 500.", rich_help_panel=_OWN),
]
_Tokens = Annotated[
    int | None,
    typer.Option(min=2, help="Tokens in a window; default is 256.", rich_help_panel=_OWN),
]
_Scope = Annotated[
    str | None,
    typer.Option(
        help="model (the default): all masks at once; block: one block at a time, in little memory.",
        rich_help_panel=_OWN,
    ),
]
_Refit = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Steps that fit the weights to the learned masks; the default, 0, leaves them as they are.",
        rich_help_panel=_OWN,
    ),
]
_Device = Annotated[
    str | None,
    typer.Option(help="Of masks: cpu, cuda, cuda:1, mps, or auto (the default).", rich_help_panel=MACHINE),
]


def train(
    model: _Trained,
    *,
    method: _Method = None,
    target: _Target = None,
    round_to: _Multiple = None,
    pattern: _NM = None,
    images: _Pictures = None,
    test: _Tested = None,
    text: _Text = None,
    text_column: Column = None,
    prior: _Prior = None,
    steps: _Steps = None,
    length: _Tokens = None,
    scope: _Scope = None,
    refit: _Refit = None,
    distill: _Distill = None,
    epochs: _Epochs = None,
    samples: _Samples = None,
    batch: _Batch = None,
    rate: _Rate = None,
    teacher: _Teacher = None,
    teaching: _Teaching = None,
    norms: _Norms = None,
    seed: _Seed = 0,
    out: _Out,
    resume: Resume = False,
    as_json: AsJson = False,
    weights: Weights = "auto",
    factory: Factory = None,
    classes: _Classes = None,
    device: _Device = None,
    trust_remote_code: Trust = False,
) -> None:
    """Learn what to prune: n:m masks of a language model (maskllm), or widths of a network (s2h).

    reconstruct and finetune recover a network that was pruned.
    """
    check_output(Path(out), may_be_empty=True)
    _refuse_method(model, method)
    settings: dict[str, Any] = {"batch": batch, "rate": rate, "seed": seed}
    masks = {"pattern": pattern, "steps": steps, "length": length}
    task = {"prior": prior, "scope": scope, "refit": refit, "device": device, "text_column": text_column}
    more = dict[str, Any](epochs=epochs, samples=samples, target=target, round_to=round_to, distill=distill)
    if is_network(model):
        refuse(model, {"text": text, "trust-remote-code": trust_remote_code} | masks | task, "is for language models")
        guide = None if teacher is None else open_by(teacher, "auto", factory, classes)
        settings |= {"method": method or "s2h", "norms": norms, "teaching": teaching} | more
        network = open_by(model, weights, factory, classes)
        train_network(network, out, settings, {"images": images, "test": test}, Run(guide, resume, as_json))
        return
    own = {"images": images, "test": test, "teacher": teacher, "factory": factory, "classes": classes}
    refuse(model, own | more | {"norms": norms is not None, "teaching": teaching}, "is for networks that read pictures")
    _learn_masks((model, text, out), settings | masks, task, (resume, trust_remote_code, as_json))


def _refuse_method(model: str, method: str | None) -> None:
    """Refuse an unknown method, and one that is for the other kind of model."""
    if method is not None:
        check_name("method", method, _METHODS)
    if method is not None and is_network(model) == (method == "maskllm"):
        raise InputError(f"method {method!r} learns {_METHODS[str(method)]}, and {model} is none")


def _learn_masks(
    names: tuple[str, str | None, str], given: dict[str, Any], task: dict[str, Any], how: tuple[bool, bool, bool]
) -> None:
    (model, text, out), (resume, trust, as_json) = names, how
    if text is None:
        raise InputError("learning masks needs a text: give --text FILE, or --text bundled")
    check_names(model, Path(out))
    from secateur.core.pattern import NM, parse_pattern  # torch takes seconds to import: not for --help
    from secateur.masks.learn import MaskTask, learn_masks
    from secateur.masks.maskllm import MaskSettings
    from secateur.storage.source import resolve

    settings = {key: value for key, value in given.items() if value is not None}
    pattern = settings.get("pattern", "2:4")
    settings["pattern"] = shape = parse_pattern(pattern)
    if not isinstance(shape, NM):
        raise InputError(f"pattern {pattern!r} is not n:m, such as 2:4: maskllm learns no other")
    known = {key: value for key, value in task.items() if value is not None}
    chosen = MaskTask(settings=MaskSettings(**settings), **known)
    with resumable(RESUME), progress("prior blocks") as bar:
        source = resolve(model, trusted=trust)
        result = learn_masks(source, text, out, chosen, resume=resume, progress=bar)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    say(f"{out}: {result['sparsity']:.2%} of the weights in blocks removed in {result['seconds']:.0f} s")
    if looks := result.get("looks"):
        best = min(looks, key=lambda look: look["held"])
        say(
            f"held-out loss {looks[0]['held']:.3f} under the prior, {best['held']:.3f} under the masks of step "
            f"{best['step']}; {best['changed']:.1%} of the prior's masks changed"
        )
    else:
        prior, learned = (
            sum(row[key] for row in result["blocks"]) / len(result["blocks"]) for key in ("prior", "learned")
        )
        say(f"mean error of a block {prior:.3f} under the prior, {learned:.3f} under the learned masks")
    say(f"next: secateur evaluate {shlex.quote(out)} --perplexity bundled")
