"""Commands on attention heads: importance, ablate, curve, prune, finetune."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from secateur.core.files import check_output
from secateur.terminal.choices import HeadScore
from secateur.terminal.console import (
    AMOUNT,
    DATA,
    OUTPUT,
    RESUME,
    WHAT,
    AsJson,
    Commands,
    DryRun,
    Resume,
    Trust,
    resumable,
    say,
    screen,
    show,
)
from secateur.terminal.progress import progress

__all__ = ["heads"]

heads = typer.Typer(cls=Commands, no_args_is_help=True, help="Score, ablate and prune attention heads.")

Model = Annotated[str, typer.Argument(help="A folder or hub name, saved with its task head.")]
Data = Annotated[
    list[str],
    typer.Option(help="Texts (.tsv, .csv, .jsonl, .txt) or pictures. Two are correlated.", rich_help_panel=DATA),
]
One = Annotated[
    str, typer.Option(help="Texts (.tsv, .csv, .jsonl, .txt) or pictures to score on.", rich_help_panel=DATA)
]
Test = Annotated[
    str | None, typer.Option(help="What the model is judged on; default is the scoring data.", rich_help_panel=DATA)
]
Out = Annotated[Path, typer.Option(help="Folder to write; must not exist yet.", rich_help_panel=OUTPUT)]
Task = Annotated[
    str | None,
    typer.Option(
        help="classify, lm, translate, tag, embed, answer or choose; default is what the class does.",
        rich_help_panel=WHAT,
    ),
]
Samples = Annotated[
    int | None, typer.Option(min=1, help="First rows or windows of --data only, never of --test.", rich_help_panel=DATA)
]
Batch = Annotated[int | None, typer.Option(min=1, help="Samples in a forward pass.", rich_help_panel=DATA)]
Length = Annotated[int | None, typer.Option(min=2, help="Tokens a sample is cut at.", rich_help_panel=DATA)]
Level = Annotated[str, typer.Option(help="Absolute values at every token, or once an example.", rich_help_panel=WHAT)]
Normalise = Annotated[bool, typer.Option(help="Divide every layer's importances by their norm.", rich_help_panel=WHAT)]
Kinds = Annotated[
    list[str] | None,
    typer.Option(help="Only encoder, decoder or cross attention; may be repeated.", rich_help_panel=WHAT),
]
Unit = Annotated[
    str,
    typer.Option(help="With shared KV heads: kv_groups, or heads of every group; auto chooses.", rich_help_panel=WHAT),
]
MinHeads = Annotated[int, typer.Option(min=0, help="Heads every attention keeps.", rich_help_panel=AMOUNT)]
Again = Annotated[bool, typer.Option("--reestimate", help="Score again at every step.", rich_help_panel=WHAT)]
Seed = Annotated[int, typer.Option(min=0, help="Fixes what is drawn by chance.", rich_help_panel=WHAT)]


_Exact = Annotated[bool, typer.Option("--exact", help="Judge every choice; for small models.", rich_help_panel=WHAT)]


@heads.command()
def importance(
    model: Model,
    data: Data,
    out: Out,
    task: Task = None,
    score: HeadScore = "importance",
    level: Level = "token",
    normalise: Normalise = True,
    samples: Samples = None,
    batch: Batch = None,
    length: Length = None,
    seed: Seed = 0,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Score every head: a table, a heat map, and with two --data how well the scores agree."""
    check_output(out)
    from secateur.heads.report import report_importance
    from secateur.heads.scoring import Scoring
    from secateur.heads.task_model import DataOptions, open_task_model
    from secateur.storage.source import resolve

    scoring = Scoring(score=score, level=level, normalise=normalise, seed=seed)
    data_options = DataOptions(samples=samples, batch=batch, length=length)
    task_model = open_task_model(resolve(model, trusted=trust_remote_code), task)
    with progress("batches") as bar:
        result = report_importance(task_model, data, out, scoring, data_options, progress=bar)
    _tell(result, out, as_json=as_json)


@heads.command()
def ablate(
    model: Model,
    data: Data,
    out: Out,
    task: Task = None,
    keep_one: Annotated[
        bool, typer.Option("--keep-one", help="Keep one head alone in its layer instead.", rich_help_panel=WHAT)
    ] = False,
    samples: Samples = None,
    batch: Batch = None,
    length: Length = None,
    seed: Seed = 0,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Remove one head at a time: the change of score with bootstrap intervals, a table and a heat map."""
    check_output(out)
    from secateur.heads.report import AblationOptions, report_ablation
    from secateur.heads.task_model import DataOptions, open_task_model
    from secateur.storage.source import resolve

    data_options = DataOptions(samples=samples, batch=batch, length=length)
    task_model = open_task_model(resolve(model, trusted=trust_remote_code), task)
    options = AblationOptions(keep_one=keep_one, seed=seed)
    with progress("heads") as bar:
        result = report_ablation(task_model, data, out, options, data_options, progress=bar)
    _tell(result, out, as_json=as_json)


@heads.command()
def curve(
    model: Model,
    data: One,
    out: Out,
    test: Test = None,
    task: Task = None,
    score: Annotated[
        list[str] | None, typer.Option(help="Orders to compare; may be repeated.", rich_help_panel=WHAT)
    ] = None,
    seeds: Annotated[int, typer.Option(min=0, help="Random orders to draw.", rich_help_panel=AMOUNT)] = 5,
    step: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the heads a step removes.", rich_help_panel=AMOUNT)
    ] = 0.1,
    level: Level = "token",
    normalise: Normalise = True,
    reestimate: Again = False,
    kind: Kinds = None,
    unit: Unit = "auto",
    min_heads: MinHeads = 0,
    samples: Samples = None,
    batch: Batch = None,
    length: Length = None,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Remove more and more heads in several orders: scores, a figure, and what goes within 1%."""
    check_output(out)
    from secateur.heads.removal import RemovalOptions
    from secateur.heads.report import CurveOptions, report_curve
    from secateur.heads.scoring import Scoring
    from secateur.heads.task_model import DataOptions, open_task_model
    from secateur.storage.source import resolve

    orders = {}
    for name in score or ["importance", "magnitude", "random"]:
        for seed in range(seeds if name == "random" else 1):
            scoring = Scoring(score=name, level=level, normalise=normalise, seed=seed)
            label = f"random {seed}" if name == "random" else name
            orders[label] = RemovalOptions(
                scoring=scoring, reestimate=reestimate, kinds=tuple(kind or ()), min_heads=min_heads
            )
    options = CurveOptions(orders=orders, step=step)
    data_options = DataOptions(samples=samples, batch=batch, length=length)
    task_model = open_task_model(resolve(model, trusted=trust_remote_code), task, unit=unit)
    with progress("models judged") as bar:
        result = report_curve(task_model, (data, test), out, options, data_options, progress=bar)
    _tell(result, out, as_json=as_json)


@heads.command()
def prune(
    model: Model,
    data: One,
    ratio: Annotated[float, typer.Option(min=0, max=1, help="Share of the heads to remove.", rich_help_panel=AMOUNT)],
    out: Out,
    test: Test = None,
    task: Task = None,
    score: HeadScore = "importance",
    level: Level = "token",
    normalise: Normalise = True,
    reestimate: Again = False,
    exact: _Exact = False,
    kind: Kinds = None,
    unit: Unit = "auto",
    min_heads: MinHeads = 0,
    samples: Samples = None,
    batch: Batch = None,
    length: Length = None,
    seed: Seed = 0,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx beside it.", rich_help_panel=OUTPUT)] = False,
    dry_run: DryRun = False,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Remove attention heads and save a smaller model that loads again."""
    if not dry_run:
        check_output(out)
    from secateur.heads.prune import prune_heads
    from secateur.heads.removal import RemovalOptions
    from secateur.heads.scoring import Scoring
    from secateur.heads.task_model import DataOptions, open_task_model
    from secateur.storage.source import resolve

    scoring = Scoring(score=score, level=level, normalise=normalise, seed=seed)
    plan = RemovalOptions(
        scoring=scoring, reestimate=reestimate, exact=exact, kinds=tuple(kind or ()), min_heads=min_heads
    )
    data_options = DataOptions(samples=samples, batch=batch, length=length)
    task_model = open_task_model(resolve(model, trusted=trust_remote_code), task, unit=unit)
    if dry_run:
        _plan(task_model, ratio, plan, as_json=as_json)
        return
    with progress("scoring") as bar:
        result = prune_heads(
            task_model, (data, test), out, ratio, plan, data_options=data_options, onnx=onnx, progress=bar
        )
    if as_json:
        show({"out": str(out), **result}, as_json=True)
        return
    say(f"{_summary(result)}\n{out}: loads with transformers' Auto classes after `import secateur`")


@heads.command()
def finetune(
    model: Annotated[str, typer.Argument(help="An encoder: a folder, a hub name, or bundled:minilm.")],
    data: Annotated[Path, typer.Option(help="Labelled texts: .tsv, .csv or .jsonl.", rich_help_panel=DATA)],
    out: Out,
    test: Annotated[
        Path | None, typer.Option(help="Labelled texts to measure accuracy on.", rich_help_panel=DATA)
    ] = None,
    epochs: Annotated[float, typer.Option(min=0, help="Passes over the data.", rich_help_panel="Training")] = 3.0,
    batch: Annotated[int, typer.Option(min=1, help="Texts in a step.", rich_help_panel="Training")] = 32,
    rate: Annotated[float, typer.Option(help="Peak learning rate.", rich_help_panel="Training")] = 5e-5,
    length: Annotated[
        int | None,
        typer.Option(
            help="Tokens a text is cut at; default is 128, or the model's positions.", rich_help_panel="Training"
        ),
    ] = None,
    seed: Seed = 0,
    resume: Resume = False,
    trust_remote_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Train a classifier to prune heads of, on labelled texts."""
    check_output(out)
    from secateur.heads.finetune import finetune as run_finetune
    from secateur.storage.source import resolve
    from secateur.train.classifier import Finetuning

    plan = Finetuning(epochs=epochs, batch=batch, rate=rate, length=length, seed=seed)
    source = resolve(model, trusted=trust_remote_code)
    with resumable(RESUME), progress("training steps") as bar:
        result = run_finetune(source, data, out, plan, test=test, resume=resume, progress=bar)
    show({"out": str(out), **result}, as_json=as_json)


def _plan(task_model: Any, ratio: float, plan: Any, *, as_json: bool) -> None:
    from secateur.advise.head_plan import plan_heads

    told = plan_heads(task_model, ratio, kinds=plan.kinds, min_heads=plan.min_heads)
    if as_json:
        show(told, as_json=True)
        return
    say("{:,} heads before, {:,} after, ".format(*told["heads"]) + f"in {told['attentions']} attentions")
    say("parameters {:,} before, about {:,} after".format(*told["parameters"]))
    say("nothing was written (dry run)")


def _summary(result: dict[str, Any]) -> str:
    rows = "windows" if result["metric"] == "perplexity" else "rows"
    removed = result["heads_before"] - result["heads"]
    return (
        f"{removed} of {result['heads_before']} heads removed, "
        f"{result['parameters_before']:,} to {result['parameters']:,} parameters; "
        f"{result['metric']} {result['before']:.4f} before, {result['after']:.4f} after\n"
        f"scored on {result['data_rows']} {rows} of {result['data']}, "
        f"judged on {result['test_rows']} of {result['test']}"
    )


def _tell(result: dict[str, Any], out: Path, *, as_json: bool) -> None:
    if as_json:
        show({"out": str(out), **result}, as_json=True)
        return
    rows = result.get("rows", [])
    if rows:
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
        screen.print(table)
    say("\n".join([*result["words"], f"written to {out}"]))
