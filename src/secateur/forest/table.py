"""Tables of users: csv and parquet, prices by column name, and models without pickle. Text is text."""

import csv
import gzip
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from secateur.core.errors import InputError, ModelError
from secateur.forest.archive import TRUSTED, check_forest, plain_archive
from secateur.trees.usage import in_order, nearest, others

__all__ = ["Table", "load_forest", "read_costs", "read_table", "save_forest", "save_onnx"]

_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?)", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_PADDED = re.compile(r"[+-]?0\d", re.ASCII)  # a number by its looks, a name by its zeros: 007
_MISSING = frozenset(["", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "None", "NULL", "null", "<NA>", "#N/A"])
_LARGEST_TARGET = 1e100
_LARGEST_CLASS = 2.0**53  # above it floats pass over whole numbers


class Table(NamedTuple):
    """Numbers by column, what is to be predicted, and what examples weigh; None is 1 each."""

    columns: list[str]
    x: Float[np.ndarray, "examples features"]
    y: Any
    weight: Any = None

    def rows(self, chosen: Any) -> "Table":
        """The table of some rows."""
        weight = None if self.weight is None else self.weight[chosen]
        return Table(self.columns, self.x[chosen], self.y[chosen], weight)


def read_table(
    path: Path, target: str, labels: str | None = None, names: list[str] | None = None, weight: str | None = None
) -> Table:
    """A .csv (or .csv.gz) or .parquet file; missing numbers are NaN.

    labels: what the target holds, "text" or "numbers"; without it numbers where all of a .csv's values look like them,
    and none starts with zeros, as 007 does. names: the columns wanted, in this order; others are left out. weight: the
    column of what examples weigh, which is no feature. Raises InputError naming the column, and in a .csv the line.
    """
    import pandas

    try:
        if path.suffix == ".parquet":
            frame, lines = pandas.read_parquet(path), None
            frame.columns = frame.columns.map(str)
            _check_columns(path, [*frame.columns], target)
        else:
            frame, lines = _read_csv(path, target)
    except InputError:
        raise
    except Exception as error:  # pandas, pyarrow and csv raise many kinds for a broken file
        reason = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise InputError(f"table {str(path)!r} cannot be read: {reason}") from error
    if weight is not None and (weight == target or weight not in frame):
        raise InputError(f"table {str(path)!r} has no column {weight!r} of weights beside its target")
    try:
        inputs = in_order(frame.drop(columns=[target] if weight is None else [target, weight]), names)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if len(frame) < 2 or inputs.shape[1] == 0:
        raise InputError(f"table {str(path)!r} has {len(frame)} rows and {inputs.shape[1]} features: too few")
    x = np.empty(inputs.shape)
    for number, column in enumerate(inputs):
        x[:, number] = _Column(path, column, lines).features(inputs[column])
    heavy = None if weight is None else _Column(path, weight, lines).weights(frame[weight])
    return Table([*inputs.columns], x, _Column(path, target, lines).target(frame[target], labels), heavy)


class _Column(NamedTuple):
    """Where values stand: what is wrong with one is said with its line."""

    path: Path
    name: str
    lines: list[int] | None

    def place(self, row: Any) -> str:
        """Where the value of a row stands."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def features(self, values: Any) -> Float[np.ndarray, " examples"]:
        """As numbers that trees can compare."""
        numbers = values
        if values.dtype.kind not in "biuf":
            row = next((row for row, value in enumerate(values) if not _is_number(value)), None)
            if row is not None:
                raise InputError(
                    f"column {self.name!r} of {self.path} holds no numbers, but {str(values.iloc[row])[:40]!r} in "
                    f"{self.place(row)}: encode it first, or leave it out"
                )
            numbers = values.map(lambda value: float(str(value)))  # whole numbers of hundreds of digits
        # Pandas' own integers have a missing value that numpy lacks.
        numbers = numbers.to_numpy(np.float64, na_value=np.nan)
        return self._in_range(numbers, float(np.finfo(np.float32).max), "trees compare numbers of 32 bits")

    def weights(self, values: Any) -> Float[np.ndarray, " examples"]:
        """What examples weigh. Raises InputError on one below 0 or missing, and where all are 0."""
        numbers = self.features(values)
        wrong = np.flatnonzero(~(numbers >= 0) | ~np.isfinite(numbers))
        if len(wrong):
            raise InputError(
                f"column {self.name!r} of {self.path} holds '{numbers[wrong[0]]}' in {self.place(wrong[0])}: "
                "a weight is a number of at least 0"
            )
        if not numbers.any():
            raise InputError(f"column {self.name!r} of {self.path} weighs every row 0: give some more than that")
        return numbers

    def _in_range(self, numbers: Any, largest: float, why: str) -> Any:
        beyond = np.flatnonzero(np.abs(numbers) > largest)
        if len(beyond):
            raise InputError(
                f"column {self.name!r} of {self.path} holds '{numbers[beyond[0]]}' in {self.place(beyond[0])}: {why}, "
                f"at most {largest:.3g}; leave the row out"
            )
        return numbers

    def _check_classes(self, numbers: Any) -> None:
        """Refuse a class that is a number too large to be told from its neighbours."""
        beyond = np.flatnonzero(np.abs(numbers) >= _LARGEST_CLASS)
        if len(beyond) and np.isfinite(numbers[beyond[0]]) and (numbers == np.rint(numbers)).all():
            raise InputError(
                f"column {self.name!r} of {self.path} holds '{numbers[beyond[0]]}' in {self.place(beyond[0])}, and "
                f"whole numbers from {_LARGEST_CLASS:.0f} on are not told apart as classes: leave the row out, "
                "name the classes by text, or add --regression to predict numbers"
            )

    def target(self, values: Any, labels: str | None) -> Any:
        """As numbers or as text."""
        missing = values.isna() if self.lines is None else values == ""
        array = values.to_numpy()
        if self.lines is not None and not missing.any():
            array, missing = _typed(array, labels)
        if missing.any():
            raise InputError(
                f"column {self.name!r} of {self.path} lacks {int(missing.sum())} values: leave those rows out"
            )
        if array.dtype.kind == "f":
            array = array.astype(np.float64)  # squares of 32 bits overflow
            if labels is None:
                self._check_classes(array)
        if array.dtype.kind in "iuf":
            return self._in_range(array, _LARGEST_TARGET, "errors are squared")
        if array.dtype.kind == "O" and not all(isinstance(value, str) for value in array):
            row = next(row for row, value in enumerate(array) if not isinstance(value, str))
            raise InputError(
                f"column {self.name!r} of {self.path} holds {str(array[row])[:40]!r} in {self.place(row)}: a "
                f"{type(array[row]).__name__} is neither a number nor text"
            )
        if array.dtype.kind not in "bOU":
            raise InputError(f"column {self.name!r} of {self.path} holds {array.dtype}, neither numbers nor text")
        return array


def _is_number(value: Any) -> bool:
    return value != value or isinstance(value, int | float) or bool(_NUMBER.fullmatch(str(value).strip()))


def _typed(values: Any, labels: str | None) -> tuple[Any, Any]:
    """Text of a .csv as numbers or truth where all of it is, and which values are missing."""
    texts = [value.strip() for value in values]
    missing = np.array([text in _MISSING for text in texts])
    said = [text for text in texts if text not in _MISSING]
    numbers = said and labels != "text" and all(_NUMBER.fullmatch(text) for text in said)
    if numbers and (labels == "numbers" or not any(_PADDED.match(text) for text in said)):
        if missing.any():
            return values, missing
        whole = all(_WHOLE.fullmatch(text) for text in said)
        return np.array([int(text) if whole else float(text) for text in said]), missing
    if said and labels != "text" and all(text.lower() in ("true", "false") for text in said):
        return (values if missing.any() else np.array([text.lower() == "true" for text in said])), missing
    return values, np.zeros(len(values), bool)


def _read_csv(path: Path, target: str) -> tuple[Any, list[int]]:
    """Columns as pandas reads them, the target as text; and the line of every row."""
    import pandas

    rows = _rows(path)
    header = next(rows, (0, []))[1]
    _check_columns(path, header, target)
    lines = []
    for line, fields in rows:
        if len(fields) != len(header):
            raise InputError(f"line {line} of {path} has {len(fields)} fields, and the first line names {len(header)}")
        lines.append(line)  # quoted fields hold line breaks, so rows and lines differ
    frame = pandas.read_csv(
        path,
        encoding="utf-8-sig",
        dtype={target: object},
        keep_default_na=False,
        na_values={column: sorted(_MISSING) for column in header if column != target},
        index_col=False,
        low_memory=False,
    )
    if len(frame) != len(lines) or [*frame.columns] != header:
        raise InputError(f"table {str(path)!r} cannot be read: its quotes do not match")
    return frame, lines


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Every row of a .csv that is not blank, with the line it ends in."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(_without_zeros(file), strict=True)
        for row in reader:
            if row:
                yield reader.line_num, row


def _without_zeros(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if "\0" in line:
            raise csv.Error(f"line {number + 1} holds a zero byte, which is no text")
        yield line


def _check_columns(path: Path, names: list[str], target: str) -> None:
    if not names:
        raise InputError(f"table {str(path)!r} cannot be read: it is empty")
    if target not in names:
        raise InputError(
            f"table {str(path)!r} has no column {target!r}: it has {', '.join(names[:20])}{nearest(target, names)}"
        )
    for place, name in enumerate(names):
        if not name.strip():
            raise InputError(f"column {place + 1} of {path} has no name: name it, or save the table without its index")
        if name in names[:place]:
            raise InputError(f"table {str(path)!r} has two columns named {name!r}: name each once")


def read_costs(path: Path, columns: list[str]) -> tuple[list[float], list[str | None] | None]:
    """Costs of the columns, and their groups where the file has them, from a csv of feature, cost[, group].

    A group is bought at once, so its features must cost the same; a blank cell is no group. Costs are those of the
    groups by sorted name, then of the features without one. Raises InputError, by line, on a column without a cost,
    on one that is unknown, and on anything else in the file.
    """
    where = f"costs {str(path)!r}"
    try:
        rows = [*_rows(path)]
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise InputError(f"{where} should be a csv with columns feature, cost and perhaps group: {error}") from error
    header = [name.strip() for name in rows[0][1]] if rows else []
    if any(header.count(name) != 1 for name in ("feature", "cost")) or header.count("group") > 1:
        raise InputError(f"{where} should be a csv with columns feature, cost and perhaps group, and has {header[:8]}")
    prices = _priced(rows[1:], header, where)
    by_group: dict[str, float] = {}
    for line, cost, group in prices.values():
        if group is not None and by_group.setdefault(group, cost) != cost:
            raise InputError(
                f"line {line} of {where}: features of group {group!r} cost differently, but are bought at once"
            )
    _match(prices, columns, where)
    listed = [prices[column] for column in columns]
    if "group" not in header:
        return [price.cost for price in listed], None
    alone = [price.cost for price in listed if price.group is None]
    return [by_group[name] for name in sorted(by_group)] + alone, [price.group for price in listed]


class _Price(NamedTuple):
    line: int
    cost: float
    group: str | None


def _priced(rows: list[tuple[int, list[str]]], header: list[str], where: str) -> dict[str, _Price]:
    prices: dict[str, _Price] = {}
    for line, fields in rows:
        if len(fields) != len(header):
            raise InputError(f"line {line} of {where} has {len(fields)} fields, and the first line names {len(header)}")
        row = dict(zip(header, fields, strict=True))
        name = row["feature"]
        if name in prices:
            raise InputError(f"{where} name {name!r} twice, in lines {prices[name].line} and {line}")
        cost = _price(row["cost"], f"line {line} of {where}")
        prices[name] = _Price(line, cost, row.get("group", "").strip() or None)
    return prices


def _match(prices: dict[str, _Price], columns: list[str], where: str) -> None:
    """Raise InputError unless every column has a price, and every price a column."""
    known = set(columns)
    missing = [column for column in columns if column not in prices]
    strange = [name for name in prices if name not in known]
    if missing:
        raise InputError(
            f"{where} have no price for {missing[0]!r}{others(missing)}, which the table has"
            + nearest(missing[0], strange or [*prices])
        )
    if strange:
        raise InputError(
            f"line {prices[strange[0]].line} of {where} prices {strange[0]!r}, which is no feature here"
            + nearest(strange[0], columns)
        )


def _price(text: str, where: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text.strip()) and "n" not in text.lower() else np.nan
    if not 0 <= value <= 1e100:
        raise InputError(
            f"{where} says {text[:40]!r}: in columns feature, cost and perhaps group, cost is a number from 0 to 1e100"
        )
    return value


def save_forest(forest: Any, path: Path) -> None:
    """Write a scikit-learn forest as .skops, which holds no code. Raises InputError without the package."""
    path.write_bytes(plain_archive(_skops().dumps(forest)))


def save_onnx(forest: Any, path: Path, features: int) -> None:
    """Write a scikit-learn forest as ONNX, input `X` `[examples, features]` in float32.

    Raises InputError without skl2onnx.
    """
    try:
        from skl2onnx import to_onnx
    except ImportError as error:
        raise InputError("writing forests as ONNX needs skl2onnx: pip install 'secateur[onnx]'") from error
    options = {"zipmap": False} if hasattr(forest, "classes_") else None  # else probabilities come as a list of dicts
    made = to_onnx(forest, np.zeros((1, features), np.float32), options=options)
    path.write_bytes(made.SerializeToString())


def load_forest(path: Path) -> Any:
    """Read a fitted scikit-learn forest that can be pruned.

    Raises ModelError on a file that is none, names a type that is not on the list, or holds trees that lead nowhere.
    """
    skops = _skops()
    try:
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        forest = skops.loads(plain_archive(path.read_bytes()), trusted=TRUSTED)
        if hasattr(forest, "feature_names"):  # as secateur wrote them until 0.5
            forest.feature_names_in_ = np.array(vars(forest).pop("feature_names"), dtype=object)
        check_forest(forest)
    except InputError as error:
        raise ModelError(f"{path} is refused: {error}") from error
    except Exception as error:  # skops, zipfile and scikit-learn raise many kinds for a broken file
        reason = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise ModelError(f"{path} cannot be read as a skops model: {reason}") from error
    return forest


def _skops() -> Any:
    try:
        from skops import io
    except ImportError as error:
        raise InputError("saving forests needs skops: pip install 'secateur[forest]'") from error
    return io
