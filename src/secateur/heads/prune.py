"""prune_heads(task_model, data, out, ratio, plan): a model without them, checked, and saved so that it loads again."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur.adapt.example import outputs_of
from secateur.adapt.structure import Structure
from secateur.core.cut import Cut
from secateur.core.errors import ModelError, NumericalError
from secateur.core.files import new_folder, read_document, write_document
from secateur.export.onnx import write_forward_onnx
from secateur.heads.removal import RemovalOptions, plan_removal, removal_cut
from secateur.heads.scoring import Progress
from secateur.heads.task_model import DataOptions, TaskModel
from secateur.report.card import write_card
from secateur.score.gates import Batch, gated
from secateur.storage.folder import copy_companions
from secateur.storage.source import quiet
from secateur.surgery.heads import cut_heads_, head_sites
from secateur.surgery.verify import difference
from secateur.tasks.task import Task, count_samples, score

__all__ = ["prune_heads", "save_without_heads"]

_TOLERANCE = 1e-4  # of the largest output


def prune_heads(
    task_model: TaskModel,
    data: tuple[str | Task, str | Task | None],
    out: str | Path,
    ratio: float,
    plan: RemovalOptions | None = None,
    *,
    data_options: DataOptions | None = None,
    onnx: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Take a share of the heads out for good and save the model.

    data: what heads are scored on, and what the model is judged on before and after
    (None: the same), as files or as tasks of your own; `data_options.samples` cuts the
    first alone, and the rows of both are told.
    With `plan.reestimate` a tenth goes at a time. The task_model's model has lost its heads
    afterwards. Returns what heads.json holds. Raises a SecateurError with one sentence on
    anything that cannot be done; `out` then does not exist.
    """
    plan = plan or RemovalOptions()
    scored, judged = task_model.read_both(data, data_options)
    steps = [ratio * step / 10 for step in range(1, 11)] if plan.reestimate and not plan.exact else [ratio]
    with new_folder(Path(out)) as folder:
        keep = plan_removal(task_model, scored, steps, plan, progress=progress)[-1]
        result = {
            **task_model.about,
            "data": _shown(data[0]),
            "test": _shown(data[1] or data[0]),
            "ratio": ratio,
        }
        result |= {"data_rows": count_samples(scored), "test_rows": count_samples(judged)}
        result |= {"plan": asdict(plan), "metric": judged.metric, "before": score(judged, task_model.model)}
        result |= save_without_heads(task_model, keep, folder, next(iter(scored.batches)))
        result |= {"after": score(judged, task_model.model)}
        if onnx:
            write_forward_onnx(task_model.model, next(iter(scored.batches)), folder)
        write_document(folder / "heads.json", result)
        write_card(folder, Path(out).name, task_model.folder)
    return result


def _shown(data: str | Task) -> str:
    return data if isinstance(data, str) else type(data).__name__


def save_without_heads(task_model: TaskModel, keep: Sequence[Tensor], folder: Path, batch: Batch) -> dict[str, Any]:
    """Slice the model, check it against its gated self on a batch, and write it with its cut.

    Raises NumericalError when the two differ.
    """
    model, structure = task_model.model, task_model.structure
    if structure is None:
        raise ModelError("the model was described by its attentions alone: give its structure, to take heads out of it")
    with gated(task_model.attentions, [kept.float() for kept in keep]):
        expected = outputs_of(model, batch)  # of the gated model, before anything is cut
    before = model.num_parameters()
    cut = removal_cut(task_model, keep)
    cut_heads_(structure, head_sites(task_model.attentions, task_model.unit), cut)
    apart = difference(expected, outputs_of(model, batch))
    if not apart <= _TOLERANCE:
        raise NumericalError(
            f"the model without heads differs from the one with gates at 0 by {apart:.2g} of its largest output, "
            f"allowed is {_TOLERANCE:g}: "
            "the family's row in secateur/adapt/encoder_table.py does not fit this checkpoint"
        )
    _save(task_model.folder, structure, cut, folder)
    counts = [int(kept.sum()) for kept in keep]
    return {
        "heads": sum(counts),
        "heads_before": sum(map(len, keep)),
        "heads_by_attention": dict(zip((attention.name for attention in task_model.attentions), counts, strict=True)),
        "parameters": model.num_parameters(),
        "parameters_before": before,
        "difference": apart,
    }


def _save(source: Path, structure: Structure, cut: Cut, folder: Path) -> None:
    model = structure.model
    with quiet():
        model.save_pretrained(folder)
    copy_companions(source, folder)  # the source's own config and tokenizer, word for word
    config = read_document(folder / "config.json") | {"architectures": [type(model).__name__]}
    write_document(folder / "config.json", structure.config(config))
    cut.save(folder / "cut.json")
