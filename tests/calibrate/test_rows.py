import gzip
import json

import pandas as pd
import pytest

from conftest import tiny_tokenizer
from secateur.calibrate.data import read_text
from secateur.calibrate.rows import file_kind, read_lines, read_plain, read_rows, row_text
from secateur.core.errors import InputError

TEXTS = ["one\u2028still one", "two\u0085still two", 'three, "quoted"\nnew line']


def write(path, kind):
    """The three texts in a file of a kind."""
    rows = [{"text": text, "n": number} for number, text in enumerate(TEXTS)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    if kind == ".jsonl":
        path.write_text(lines + "\n", encoding="utf-8")
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(("\ufeff" + lines).encode()))
    elif kind == ".json":
        path.write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    elif kind == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False, encoding="utf-8-sig")
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
def test_every_kind_holds_the_same_texts(kind, tmp_path):
    path = write(tmp_path / f"a{kind}", kind)
    assert [row.fields["text"] for row in read_rows(path)] == TEXTS
    assert read_text(str(path), "calibration") == "\n\n".join(TEXTS)
    assert read_text(str(path), "calibration", column="text") == "\n\n".join(TEXTS)
    assert file_kind(path) == kind.removesuffix(".gz")
    with pytest.raises(
        InputError, match=r"has no field 'body', its fields are 'text', 'n': name one with --text-column"
    ):
        read_text(str(path), "calibration", column="body")
    if kind != ".csv":  # which knows text alone
        with pytest.raises(InputError, match=r"field 'n' should be text, found int"):
            read_text(str(path), "calibration", column="n")


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa\u2028b\r\n\nc\u0085d\x0be".encode())
    assert read_plain(path).startswith("a")
    assert read_lines(path) == [(f"{path} line 1", "a\u2028b"), (f"{path} line 3", "c\u0085d\x0be")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": null}\n', "line 2: field 'text' should be text, found null"),
        ("a.jsonl", b'{"text": "x"}\n\n[1]\n', "line 3 should be a JSON object, found a list"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n' + b"[" * 100_000, "line 2 is not JSON"),
        ("a.jsonl", b"\n \n", "is empty"),
        ("a.jsonl", b'{"text": "x"}\n\xff\xfe', "line 2 is not UTF-8"),
        ("a.json", b'{"text": "x"}', "should hold a list of objects, found a dict"),
        ("a.json", b'["x"]', "row 1 should be an object, found a str"),
        ("a.json", b"[", "is not JSON"),
        ("a.csv", b"text,text\na,b\n", "line 1 should name every column once"),
        ("a.csv", b"text,n\na\n", "line 2 has another number of fields"),
        ("a.csv", b"text,n\na,1,2\n", "line 2 has another number of fields"),
        ("a.csv", b'text,n\n"a,1\n', "cannot be read as CSV"),
        ("a.parquet", b"PAR1", "cannot be read as parquet"),
        ("a.txt.gz", b"no gzip", "cannot be read"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": "x"}]}', "has no chat template"),
        ("a.csv", b",text\n0,x\n", "pandas' index"),
        ("a.xml", b"<a/>", r"should be a \.txt"),
        ("a", b"text", r"should be a \.txt"),
    ],
)
def test_what_cannot_be_used_is_refused_by_place(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_text(str(tmp_path / name), "calibration", tokenizer=tiny_tokenizer())


def test_chats_go_through_the_tokenizers_own_template(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}"
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "w3"}, {"role": "assistant", "content": "w4"}]}')
    assert read_text(str(path), "calibration", tokenizer=tokenizer) == "user: w3;assistant: w4;"
    path.write_text(
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": "w3 "}, {"type": "text", "text": "w4"}]}]}'
    )
    assert read_text(str(path), "calibration", tokenizer=tokenizer) == "user: w3 w4;"
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match="roles must alternate"):
        row_text(read_rows(path)[0], None, tokenizer)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ('[{"role": "user", "content": [{"type": "image", "url": "x"}]}]', "should be text, found .*image"),
        ('[{"role": "user", "content": null}]', "should be text, found 'None'"),
        ('[{"role": "user"}]', "should be text"),
        ('[{"role": "user", "content": [{"type": "text", "text": 3}]}]', "should be text"),
        ('"hello"', "list of objects"),
        ('["hello"]', "list of objects"),
    ],
)
def test_a_message_that_is_no_text_is_refused_not_printed_as_a_list(messages, message, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}"
    (tmp_path / "a.jsonl").write_text(f'{{"messages": {messages}}}')
    with pytest.raises(InputError, match=message):
        read_text(str(tmp_path / "a.jsonl"), "calibration", tokenizer=tokenizer)
