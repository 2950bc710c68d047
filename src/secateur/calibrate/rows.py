"""Files of text as people keep them: one reader for .txt, .jsonl, .json, .csv and .parquet, plain or .gz."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from secateur.core.errors import InputError
from secateur.core.files import parse_json

__all__ = ["ROW_FILES", "TEXT_FILES", "Row", "file_kind", "read_lines", "read_plain", "read_rows", "row_text"]

ROW_FILES = (".jsonl", ".json", ".csv", ".parquet")
TEXT_FILES = (".txt", ".text")
_LARGEST = 1 << 33  # bytes of an unpacked file: a small .gz may hold far more than memory


class Row(NamedTuple):
    """One row of a file: where it stands, for messages, and its fields."""

    where: str
    fields: Mapping[str, Any]


def file_kind(path: Path) -> str:
    """The ending that tells how a file is read, without .gz: ".jsonl" of rows.jsonl.gz."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def read_plain(path: Path) -> str:
    """The whole text of a file, in UTF-8 with or without a byte order mark, unpacked where it is .gz.

    Raises InputError naming the file, and the line that is no UTF-8.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                data = file.read(_LARGEST + 1)
        else:
            data = path.read_bytes()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error
    if len(data) > _LARGEST:
        raise InputError(f"{str(path)!r} unpacks to more than {_LARGEST >> 30} GiB: split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{str(path)!r} line {line} is not UTF-8 ({error.reason}): save it as UTF-8") from error


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Where and what: every line that is not blank. Only "\\n" ends a line; a "\\r" before it is dropped."""
    lines = enumerate(read_plain(path).split("\n"), 1)
    return [(f"{path} line {number}", line.removesuffix("\r")) for number, line in lines if line.strip()]


def read_rows(path: Path) -> list[Row]:
    """The rows of a .jsonl, .json (a list of objects), .csv (with a header) or .parquet file.

    Raises InputError naming the file and the row that cannot be used, and for every other kind of file.
    """
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    kind = file_kind(path)
    if kind not in readers:
        raise InputError(f"{str(path)!r} should be a {', '.join(ROW_FILES)} file, found {kind or 'no ending'!r}")
    rows = list(readers[kind](path))
    if not rows:
        raise InputError(f"{str(path)!r} is empty: it has no row")
    return rows


def row_text(row: Row, column: str | None, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """The text of a row: its `column` ("text" unless named), else its `messages` through the chat template.

    Raises InputError naming the row, and the fields it has.
    """
    name = column or "text"
    if name in row.fields:
        text = row.fields[name]
        if not isinstance(text, str):
            kind = "null" if text is None else type(text).__name__
            raise InputError(f"{row.where}: field {name!r} should be text, found {kind}")
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise InputError(f"{row.where}: field {name!r} holds half of a character (a lone surrogate)")
        return text
    if column is None and "messages" in row.fields:
        return _chat(row, tokenizer)
    known = ", ".join(map(repr, list(row.fields)[:20])) or "none"
    raise InputError(f"{row.where} has no field {name!r}, its fields are {known}: name one with --text-column")


def _chat(row: Row, tokenizer: PreTrainedTokenizerBase | None) -> str:
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise InputError(f"{row.where} holds messages, and the model's tokenizer has no chat template for them")
    messages = _messages(row)
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # a template may raise anything
        raise InputError(f"{row.where}: the chat template cannot use its messages: {error}") from error


def _messages(row: Row) -> list[dict[str, Any]]:
    """Turns whose content is text: parts of type text are joined, as a template of texts would print the list itself.

    Raises InputError naming the row on anything else, pictures for one.
    """
    turns: Any = row.fields["messages"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(f"{row.where}: messages should be a list of objects with role and content")
    return [{**turn, "content": _content(turn.get("content"), row.where)} for turn in turns]


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        wrong = next(part for part, text in zip(parts, texts, strict=True) if not isinstance(text, str))
        raise InputError(f"{where}: the content of a message should be text, found {str(wrong)[:60]!r}")
    return "".join(map(str, texts))


def _jsonl(path: Path) -> Iterator[Row]:
    for where, line in read_lines(path):
        try:
            fields = parse_json(line)
        except ValueError as error:
            raise InputError(f"{where} is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise InputError(f"{where} should be a JSON object, found a {type(fields).__name__}")
        yield Row(where, fields)


def _json(path: Path) -> Iterator[Row]:
    try:
        data = parse_json(read_plain(path))
    except ValueError as error:
        hint = " (of a file with one object a line the name ends in .jsonl)" if "Extra data" in str(error) else ""
        raise InputError(f"{str(path)!r} is not JSON: {error}{hint}") from error
    if not isinstance(data, list):
        raise InputError(f"{str(path)!r} should hold a list of objects, found a {type(data).__name__}")
    for number, fields in enumerate(data, 1):
        if not isinstance(fields, dict):
            raise InputError(f"{path} row {number} should be an object, found a {type(fields).__name__}")
        yield Row(f"{path} row {number}", fields)


def _csv(path: Path) -> Iterator[Row]:
    text = read_plain(path)
    longest = csv.field_size_limit(max(len(text), 1 << 17))
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = reader.fieldnames or []
        if len(set(names)) < len(names) or not all(names):
            index = "" if all(names) else " (a column without a name may be pandas' index: write with index=False)"
            raise InputError(
                f"{str(path)!r} line 1 should name every column once, found {json.dumps(names[:20])}{index}"
            )
        for fields in reader:
            where = f"{path} line {reader.line_num}"
            if None in fields or None in fields.values():
                raise InputError(f"{where} has another number of fields than the {len(names)} columns of line 1")
            yield Row(where, fields)
    except csv.Error as error:
        raise InputError(f"{str(path)!r} cannot be read as CSV: {error}") from error
    finally:
        csv.field_size_limit(longest)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError(f"reading {str(path)!r} needs pyarrow: pip install pyarrow") from error
    try:
        rows = parquet.ParquetFile(path).read().to_pylist()
    except Exception as error:  # pyarrow raises many kinds for a damaged file
        raise InputError(f"{str(path)!r} cannot be read as parquet: {str(error).splitlines()[0]}") from error
    for number, fields in enumerate(rows, 1):
        yield Row(f"{path} row {number}", fields)
