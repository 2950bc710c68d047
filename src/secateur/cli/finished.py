"""Commands on models that are pruned: recover, evaluate, verify, bench, export."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from secateur.cli.images import (
    Factory,
    Weights,
    bench_layers,
    bench_network,
    evaluate_network,
    export_network,
    refuse,
    verify_network,
)
from secateur.core.errors import DisagreementError, InputError
from secateur.images.names import is_network
from secateur.terminal.choices import DType, Engines, Format, Quantize
from secateur.terminal.console import (
    DATA,
    OUTPUT,
    RESUME,
    AsJson,
    Device,
    Model,
    Resume,
    Trust,
    check_names,
    column_option,
    err,
    resumable,
    say,
    screen,
    show,
    text_option,
    whole_numbers,
)
from secateur.terminal.progress import progress

__all__ = ["bench", "evaluate", "export", "recover", "verify"]

_TRAINING = "Training"
_Column = Annotated[str | None, column_option(DATA)]
_RecoverText = Annotated[str, text_option(DATA)]
_RecoverTeacher = Annotated[
    str | None, typer.Option(help="The dense model, to learn from its outputs too.", rich_help_panel=_TRAINING)
]
_RecoverRank = Annotated[
    int,
    typer.Option(min=0, help="Rank of low-rank changes (LoRA); 0 trains all weights.", rich_help_panel=_TRAINING),
]
_RecoverLength = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Tokens in a window; default is 512, or the model's positions if fewer.",
        rich_help_panel=_TRAINING,
    ),
]
_Perplexity = Annotated[str | None, typer.Option(help="Text to measure it on, or bundled.", rich_help_panel=DATA)]
_Tasks = Annotated[
    list[Path] | None, typer.Option(help="A .jsonl file of questions; may be repeated.", rich_help_panel=DATA)
]
_Limit = Annotated[int | None, typer.Option(min=1, help="First rows of each task only.", rich_help_panel=DATA)]
_Window = Annotated[
    int | None,
    typer.Option(
        min=2, help="Tokens in a window; default is 1024, or the model's positions if fewer.", rich_help_panel=DATA
    ),
]
_Stride = Annotated[
    int | None, typer.Option(min=1, help="Tokens between windows; default is no overlap.", rich_help_panel=DATA)
]
_Windows = Annotated[int | None, typer.Option(min=1, help="First perplexity windows only.", rich_help_panel=DATA)]
_Pictures = Annotated[
    str | None, typer.Option(help="Pictures with classes, for the top-1 of what reads them.", rich_help_panel=DATA)
]


def recover(
    model: Annotated[str, typer.Argument(help="A pruned model folder.")],
    text: _RecoverText,
    out: Annotated[str, typer.Option(help="Folder to write; must not exist yet.", rich_help_panel=OUTPUT)],
    teacher: _RecoverTeacher = None,
    text_column: _Column = None,
    rank: _RecoverRank = 0,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.", rich_help_panel=_TRAINING)] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a step.", rich_help_panel=_TRAINING)] = 4,
    length: _RecoverLength = None,
    rate: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=_TRAINING)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes which windows are drawn.", rich_help_panel=_TRAINING)] = 0,
    resume: Resume = False,
    as_json: AsJson = False,
    trust_remote_code: Trust = False,
) -> None:
    """Train a pruned model on text. Zeros and sizes do not change."""
    check_names(model, Path(out))
    from secateur.run.recover import recover as run_recover
    from secateur.train.recover import Training

    sizes: Any = {"steps": steps, "batch": batch, "length": length, "rank": rank}
    training = Training(**sizes, rate=rate, seed=seed, text_column=text_column)
    with resumable(RESUME), progress("training steps") as bar:
        result = run_recover(
            model,
            text,
            out,
            training,
            teacher=teacher,
            resume=resume,
            trust_remote_code=trust_remote_code,
            progress=bar,
        )
    show(result, as_json=as_json)
    if not as_json:
        say(f"{out}: trained; next: secateur evaluate {shlex.quote(out)} --perplexity bundled")


def evaluate(
    model: Model,
    perplexity: _Perplexity = None,
    text_column: _Column = None,
    tasks: _Tasks = None,
    limit: _Limit = None,
    length: _Window = None,
    stride: _Stride = None,
    windows: _Windows = None,
    images: _Pictures = None,
    weights: Weights = "auto",
    factory: Factory = None,
    dtype: DType = "auto",
    device: Device = "auto",
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Measure perplexity and zero-shot accuracy, or the top-1 accuracy of what reads pictures."""
    if is_network(model):
        refuse(model, {"perplexity": perplexity, "tasks": tasks}, "is for language models")
        evaluate_network(model, images, weights=weights, factory=factory, as_json=as_json)
        return
    check_names(model)
    from secateur.evaluate.measure import measure, measure_pictures
    from secateur.evaluate.perplexity import Perplexity
    from secateur.storage.source import resolve

    source = resolve(model, trusted=trust_remote_code)
    if images is not None:
        refuse(model, {"perplexity": perplexity, "tasks": tasks}, "does not go with --images")
        show(measure_pictures(source, images, dtype=dtype, device=device), as_json=as_json)
        return
    text = None
    if perplexity is not None:
        text = Perplexity(source=perplexity, length=length, stride=stride, limit=windows, column=text_column)
    with progress("evaluating") as bar:
        results = measure(source, text, tasks or [], limit=limit, dtype=dtype, device=device, progress=bar)
    show(results, as_json=as_json)


def verify(
    dense: Annotated[str, typer.Argument(help="The model that was pruned.")],
    pruned: Annotated[str, typer.Argument(help="The folder `prune` wrote.")],
    factory: Factory = None,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Check that a pruned model computes what the dense one with zeros does. Exit code 1 if not."""
    if is_network(dense):
        verify_network(dense, pruned, factory=factory, as_json=as_json)
        return
    check_names(dense)
    check_names(pruned)
    from secateur.evaluate.agreement import Zeros, verify_folders
    from secateur.storage.source import resolve

    try:
        agreement = verify_folders(*(resolve(name, trusted=trust_remote_code) for name in (dense, pruned)))
    except DisagreementError as error:
        if as_json:
            typer.echo(json.dumps({"same": False, "why": str(error)}))
        err.print(f"not the same: {error}", soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({"same": True} | agreement._asdict()))
        return
    if isinstance(agreement, Zeros):
        share = agreement.removed / agreement.weights if agreement.weights else 0.0
        say(
            f"same: {agreement.layers} layers hold the zeros that were asked for, {share:.1%} of their "
            f"{agreement.weights:,} weights; what no mask names is the dense model's own"
        )
        return
    worst = max(agreement.blocks)
    say(f"same: blocks differ by at most {worst:.1e} of their largest value, logits by {agreement.logits:.1e}")


def export(
    folder: Annotated[str, typer.Argument(help="A model folder, shrunk or not.")],
    to: Format,
    out: Annotated[
        Path, typer.Option(help="File (gguf) or folder (others) to write; must not exist yet.", rich_help_panel=OUTPUT)
    ],
    quantize: Quantize = "f32",
    factory: Factory = None,
    as_json: AsJson = False,
    trust_remote_code: Trust = False,
) -> None:
    """Write a model in another format."""
    if is_network(folder):
        export_network(folder, to, out, factory=factory, as_json=as_json)
        return
    check_names(folder, out)
    from secateur.export.convert import convert
    from secateur.storage.source import resolve

    written = convert(resolve(folder, trusted=trust_remote_code), to, out, quantize=quantize)
    if as_json:
        typer.echo(json.dumps({"out": str(written), "format": to}))
        return
    say(written)


def bench(
    dense: Annotated[str, typer.Argument(help="The model that was pruned.")],
    pruned: Annotated[str | None, typer.Argument(help="The smaller model; none with --layers.")] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time each layer of a network at several widths.", rich_help_panel=DATA)
    ] = False,
    engine: Engines = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, commas between.", rich_help_panel=DATA)] = "1",
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.", rich_help_panel=DATA)] = 512,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens decoded after it.", rich_help_panel=DATA)] = 128,
    rounds: Annotated[
        int, typer.Option(min=1, help="Turns each model takes; medians are reported.", rich_help_panel=DATA)
    ] = 3,
    out: Annotated[Path | None, typer.Option(help="With --layers: file to write.", rich_help_panel=DATA)] = None,
    factory: Factory = None,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Time both models side by side."""
    if layers:
        refuse(dense, {"pruned": pruned}, "has no place beside --layers")
        bench_layers(dense, out, engine=engine or "blocked", factory=factory, as_json=as_json)
        return
    if pruned is None or out is not None:
        raise InputError("bench takes two models, or one network with --layers and perhaps --out")
    sizes, engine = whole_numbers("batch", batch, "1,8"), engine or "torch"
    if is_network(dense):
        bench_network(
            dense,
            pruned,
            engines=engine.split(","),
            batches=sizes,
            rounds=max(rounds, 10),
            factory=factory,
            as_json=as_json,
        )
        return
    check_names(dense)
    check_names(pruned)
    sides = {"dense": dense, "pruned": pruned}
    shape = {"batches": sizes, "prompt": prompt, "new_tokens": new_tokens, "rounds": rounds}
    results = _time(sides, engine.split(","), shape, trust=trust_remote_code)
    if as_json:
        show(results, as_json=True)
        return
    screen.print(_speeds(results))
    say(
        f"medians of {rounds} turns; texts of {prompt} tokens, {new_tokens} decoded where a model writes, or pictures; "
        f"{results['parameter_ratio']:.2f} times fewer parameters"
    )


def _time(sides: Mapping[str, str], engines: list[str], shape: Mapping[str, Any], *, trust: bool) -> dict[str, Any]:
    """Time two language models in these engines. Raises InputError on an engine that runs other networks."""
    for name in ("openvino", "blocked"):
        if name in engines:
            raise InputError(f"{name} times networks that read pictures, and {sides['dense']} is none")
    from secateur.evaluate.bench import Workload
    from secateur.evaluate.bench import bench as run_bench
    from secateur.storage.source import resolve

    one, other = (resolve(name, trusted=trust) for name in sides.values())
    with progress("timings") as bar:
        return run_bench(one, other, Workload(**shape), engines=engines, progress=bar)


_PHASES = {"prefill": "read the prompt, tokens", "decode": "write tokens", "forward": "read, samples"}


def _speeds(results: dict[str, Any]) -> Table:
    """What `bench` measured, a row an engine, batch size and phase."""
    table = Table("engine", "batch", "phase", "dense, a second", "pruned, a second", "times as fast")
    for engine, batches in results.items():
        if not isinstance(batches, dict):
            continue
        for batch, found in batches.items():
            for phase in found["dense"]:
                pair = (f"{found[side][phase]:,.1f}" for side in ("dense", "pruned"))
                table.add_row(engine, batch, _PHASES[phase], *pair, f"{found[f'{phase}_speedup']:.2f}")
    return table
