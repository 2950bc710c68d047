"""What the commands write: tables, heat maps and curves, in a folder that appears whole."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.files import new_folder, write_document
from secateur.heads.ablation import Ablation, ablate, keep_one
from secateur.heads.curve import head_curve
from secateur.heads.removal import RemovalOptions
from secateur.heads.scoring import Progress, Scoring, score_heads
from secateur.heads.table import correlate, head_rows, save_rows
from secateur.heads.task_model import DataOptions, TaskModel
from secateur.report.figures import curve_figure, heads_figure, save_figure
from secateur.tasks.task import Task, count_samples

__all__ = ["AblationOptions", "CurveOptions", "report_ablation", "report_curve", "report_importance"]


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """Remove each head, or keep it alone in its layer; seed: of the bootstrap."""

    keep_one: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """Orders of removal to compare, by name; step: the share of the heads that goes at a time."""

    orders: Mapping[str, RemovalOptions]
    step: float = 0.1

    def __post_init__(self) -> None:
        """Raise InputError on a step outside 0..1."""
        if not 0 < self.step <= 1:
            raise InputError(f"a step removes a share of the heads between 0 and 1, got {self.step}")


def report_importance(
    task_model: TaskModel,
    data: Sequence[str],
    out: Path,
    scoring: Scoring,
    data_options: DataOptions,
    *,
    progress: Progress,
) -> dict[str, Any]:
    """importance.csv, .json and .png of one or two data sets. Raises InputError on more."""
    tasks = [task_model.read(source, data_options) for source in _one_or_two(data)]
    with new_folder(out) as folder:
        scores = [score_heads(task_model, task, scoring, progress=progress) for task in tasks]
        columns: dict[str, Any] = dict(zip(_names("importance", data), scores, strict=True))
        rows = head_rows(task_model, columns)
        agreement = correlate(*scores) if len(scores) == 2 else None
        about: dict[str, Any] = {
            **task_model.about,
            "trust_remote_code": task_model.trusted,
            "data": list(data),
            "data_rows": _counts(tasks),
        }
        about |= {"scoring": asdict(scoring), "correlation": agreement}
        save_rows(rows, folder / "importance", about)
        _draw(
            task_model,
            scores[0],
            f"head {scoring.score} on {Path(data[0]).name}",
            folder / "importance.png",
            signed=False,
        )
    least = sorted(rows, key=lambda row: row[next(iter(columns))])[:5]
    heads = ", ".join(f"{row['kind']} {row['layer']}.{row['head']}" for row in least)
    words = [f"least: {heads}, on {_rows(about['data_rows'], data)}"]
    return {**about, "rows": rows, "words": [*words, *_agreement(agreement)]}


def report_ablation(
    task_model: TaskModel,
    data: Sequence[str],
    out: Path,
    options: AblationOptions,
    data_options: DataOptions,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """ablation.csv, .json and .png: the change of score without each head, or with it alone in its layer."""
    tasks = [task_model.read(path, data_options) for path in _one_or_two(data)]
    run = keep_one if options.keep_one else ablate
    with new_folder(out) as folder:
        ablations = [run(task_model, task, seed=options.seed, progress=progress) for task in tasks]
        columns: dict[str, Any] = {}
        for name, ablation in zip(_names("", data), ablations, strict=True):
            for number, part in enumerate(("change", "low", "high", "p")):
                columns[f"{part} {name}".strip()] = [[interval[number] for interval in row] for row in ablation.changes]
        rows = head_rows(task_model, columns)
        agreement = correlate(ablations[0].effects, ablations[1].effects) if len(ablations) == 2 else None
        about: dict[str, Any] = {
            **task_model.about,
            "data": list(data),
            "data_rows": _counts(tasks),
            "metric": tasks[0].metric,
            "scores": [ablation.score for ablation in ablations],
            "keep_one": options.keep_one,
            "correlation": agreement,
        }
        save_rows(rows, folder / "ablation", about)
        title = f"change of {tasks[0].metric} {'with one head alone' if options.keep_one else 'without the head'}"
        _draw(task_model, ablations[0].effects, title, folder / "ablation.png", signed=True)
    if options.keep_one:
        words = _best(task_model, ablations[0], tasks[0].higher)
    else:
        words = [_harmless(ablations[0], tasks[0].higher)]
    score = f"{tasks[0].metric} of the whole model: {ablations[0].score:.4f}, on {_rows(about['data_rows'], data)}"
    return {**about, "rows": rows, "words": [score, *words, *_agreement(agreement)]}


def report_curve(
    task_model: TaskModel,
    data: tuple[str, str | None],
    out: Path,
    options: CurveOptions,
    data_options: DataOptions,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """curve.json and .png: scores at every step of every order."""
    step = options.step
    scored, judged = task_model.read_both(data, data_options)
    ratios = [round(step * number, 6) for number in range(1, int(1 / step + 1e-9) + 1)]
    with new_folder(out) as folder:
        curve = head_curve(task_model, scored, judged, ratios, options.orders, progress=progress)
        document: dict[str, Any] = {
            **task_model.about,
            "trust_remote_code": task_model.trusted,
            "data": data[0],
            "test": data[1] or data[0],
        }
        document |= {"data_rows": count_samples(scored), "test_rows": count_samples(judged), **curve.to_dict()}
        write_document(folder / "curve.json", document)
        save_figure(curve_figure([0.0, *ratios], curve.dense, curve.lines, curve.metric), folder / "curve.png")
    rows = [
        {"removed": ratio, **{name: scores[number] for name, scores in curve.lines.items()}}
        for number, ratio in enumerate(ratios)
    ]
    free = ", ".join(f"{name} {share:.0%}" for name, share in curve.free().items())
    judged_on = _rows([document["test_rows"]], [document["test"]])
    words = [
        f"{curve.metric} of the whole model: {curve.dense:.4f}, on {judged_on}",
        f"heads that go within 1%: {free}, scored on {_rows([document['data_rows']], [data[0]])}",
    ]
    return {**document, "rows": rows, "words": words}


def _one_or_two(data: Sequence[str]) -> Sequence[str]:
    if len(data) not in (1, 2):
        raise InputError(f"give one --data, or two to correlate, got {len(data)}")
    return data


def _counts(tasks: Sequence[Task]) -> list[int]:
    return [count_samples(task) for task in tasks]


def _rows(counts: Sequence[int], data: Sequence[str]) -> str:
    return " and ".join(f"{count} rows of {name}" for count, name in zip(counts, data, strict=True))


def _names(word: str, data: Sequence[str]) -> list[str]:
    return [word] if len(data) == 1 else [f"{word} {number}".strip() for number in (1, 2)]


def _draw(task_model: TaskModel, scores: Sequence[Tensor], title: str, path: Path, *, signed: bool) -> None:
    labels = [f"{attention.kind} {attention.layer}" for attention in task_model.attentions]
    save_figure(heads_figure([row.tolist() for row in scores], labels, title, signed=signed), path)


def _agreement(correlation: dict[str, float] | None) -> list[str]:
    if correlation is None:
        return []
    return [f"correlation of the two: Pearson {correlation['pearson']:.3f} (p {correlation['pearson_p']:.2g})"]


def _harmless(ablation: Ablation, higher: bool) -> str:
    intervals = [interval for row in ablation.changes for interval in row]
    worse = [interval for interval in intervals if interval.p < 0.05 and (interval.change < 0) == higher]
    return f"{len(intervals) - len(worse)} of {len(intervals)} heads can go alone without a significant loss (p < 0.05)"


def _best(task_model: TaskModel, ablation: Ablation, higher: bool) -> list[str]:
    places = [attention for attention in task_model.attentions if attention.heads]
    return [
        f"{attention.kind} {attention.layer}: head {head} alone changes it by {interval.change:+.4f}"
        for attention, (head, interval) in zip(places, ablation.best(higher=higher), strict=True)
    ]
