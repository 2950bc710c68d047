"""Tables of users: csv and parquet, prices by column name, and models without pickle."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from secateur.core.errors import InputError, ModelError

__all__ = ["Table", "load_forest", "read_costs", "read_table", "save_forest", "save_onnx"]

_TRUSTED = ("sklearn.", "numpy.", "scipy.")


class Table(NamedTuple):
    """Numbers by column, and what is to be predicted."""

    columns: list[str]
    x: Float[np.ndarray, "examples features"]
    y: Any


def read_table(path: Path, target: str) -> Table:
    """A .csv or .parquet file; missing numbers are NaN. Raises InputError naming the column that is no number."""
    import pandas

    try:
        frame = pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_csv(path)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"table {str(path)!r} cannot be read: {str(error).splitlines()[0]}") from error
    if target not in frame:
        raise InputError(
            f"table {str(path)!r} has no column {target!r}: it has {', '.join(map(str, frame.columns[:20]))}"
        )
    if frame[target].isna().any():
        raise InputError(
            f"column {target!r} of {path} lacks {int(frame[target].isna().sum())} values: leave those rows out"
        )
    inputs = frame.drop(columns=target)
    for column in inputs:
        if not pandas.api.types.is_numeric_dtype(inputs[column]):
            raise InputError(f"column {column!r} of {path} holds no numbers: encode it first, or leave it out")
    if len(frame) < 2 or inputs.shape[1] == 0:
        raise InputError(f"table {str(path)!r} has {len(frame)} rows and {inputs.shape[1]} features: too few")
    return Table(
        [str(column) for column in inputs], inputs.to_numpy(np.float64, na_value=np.nan), frame[target].to_numpy()
    )


def read_costs(path: Path, columns: list[str]) -> tuple[list[float], list[str] | None]:
    """Costs of the columns, and their groups where the file has them, from a csv of feature, cost[, group].

    A group is bought at once, so its features must cost the same. Raises InputError on
    a column without a cost, and on anything else in the file.
    """
    import pandas

    try:
        frame = pandas.read_csv(path).set_index("feature")
        costs = frame["cost"].astype(float)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"costs {str(path)!r} should be a csv with columns feature, cost and perhaps group: {error}"
        ) from error
    if frame.index.has_duplicates:
        raise InputError(f"costs {str(path)!r} name {frame.index[frame.index.duplicated()][0]!r} twice")
    missing = [column for column in columns if column not in costs.index]
    if missing:
        raise InputError(f"costs {str(path)!r} lack {missing[0]!r}, one of {len(missing)} columns of the table missing")
    if "group" not in frame:
        return [float(costs[column]) for column in columns], None
    groups = frame["group"].astype(str)
    uneven = costs.groupby(groups).nunique()
    if (uneven > 1).any():
        raise InputError(
            f"costs {str(path)!r}: features of group {uneven.idxmax()!r} cost differently, but are bought at once"
        )
    names = [str(groups[column]) for column in columns]
    by_group = {name: float(costs[column]) for name, column in zip(names, columns, strict=True)}
    return [by_group[name] for name in sorted(by_group)], names


def save_forest(forest: Any, path: Path) -> None:
    """Write a scikit-learn forest as .skops, which holds no code. Raises InputError without the package."""
    _skops().dump(forest, path)


def save_onnx(forest: Any, path: Path, features: int) -> None:
    """Write a scikit-learn forest as ONNX, input `X` `[examples, features]` in float32.

    Raises InputError without skl2onnx.
    """
    try:
        from skl2onnx import to_onnx
    except ImportError as error:
        raise InputError("writing forests as ONNX needs skl2onnx: pip install 'secateur[onnx]'") from error
    options = {"zipmap": False} if hasattr(forest, "classes_") else None
    made = to_onnx(forest, np.zeros((1, features), np.float32), options=options)
    path.write_bytes(made.SerializeToString())


def load_forest(path: Path) -> Any:
    """Read what `save_forest` wrote. Raises ModelError on a file that is none, or names types outside scikit-learn."""
    try:
        strange = [name for name in _skops().get_untrusted_types(file=path) if not name.startswith(_TRUSTED)]
        if strange:
            raise ModelError(f"{path} holds types that are not scikit-learn's: {', '.join(strange[:5])}")
        return _skops().load(path, trusted=_skops().get_untrusted_types(file=path))
    except ModelError:
        raise
    except Exception as error:  # skops and zipfile raise many kinds for a broken file
        raise ModelError(f"{path} cannot be read as a skops model: {str(error).splitlines()[0]}") from error


def _skops() -> Any:
    try:
        from skops import io
    except ImportError as error:
        raise InputError("saving forests needs skops: pip install 'secateur[forest]'") from error
    return io
