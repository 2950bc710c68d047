import os
from pathlib import Path

import pytest

from secateur.core.errors import InputError, StorageError
from secateur.core.files import (
    check_output,
    new_file,
    new_folder,
    parse_json,
    read_document,
    read_sealed,
    reserve,
    room_beside,
    write_document,
    write_sealed,
)


def test_written_whole_and_read_back(tmp_path):
    write_document(tmp_path / "a.json", {"b": [1, 2]})
    assert read_document(tmp_path / "a.json") == {"b": [1, 2]}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_anything_else_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json"):
        read_document(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_document(tmp_path / "missing.json")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(KeyError), new_folder(out) as folder:
        (folder / "half").write_text("x")
        raise KeyError
    assert not list(tmp_path.rglob("*out*"))
    with new_folder(out) as folder:
        (folder / "whole").write_text("x")
        assert not out.exists()
    assert [file.name for file in out.iterdir()] == ["whole"]
    with pytest.raises(InputError, match="already exists"), new_folder(out):
        pass
    assert (out / "whole").exists()


def test_nesting_without_end_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_document(tmp_path / "a.json")


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '["\\uDFFF x"]', '{"\\udc00": 1}', '"\\ude00\\ud83d"'])
def test_half_of_a_surrogate_pair_is_no_text(text):
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        parse_json(text)
    assert parse_json('["\\ud83d\\ude00", "\\\\ud800"]') == ["\U0001f600", "\\ud800"]


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "a.json").write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert read_document(tmp_path / "a.json") == {"a": 1}


def test_a_seal_breaks_with_any_change(tmp_path):
    write_sealed(tmp_path / "a.json", {"b": (1, 2), "c": 0.1})
    assert read_sealed(tmp_path / "a.json") == {"b": [1, 2], "c": 0.1}
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text.replace("0.1", "0.2"))
    with pytest.raises(InputError, match=r"a\.json is damaged"):
        read_sealed(tmp_path / "a.json")
    write_sealed(tmp_path / "b.json", {})
    (tmp_path / "b.json").replace(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"a\.json is damaged"):
        read_sealed(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["", ".", "..", "/", "x/..", "a\0b", "n" * 300, "link", "taken", "file/inside"])
def test_names_nothing_can_be_written_to_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((InputError, StorageError)):
        check_output(Path(name), may_be_empty=True)
    with pytest.raises((InputError, StorageError)), new_folder(Path(name)):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_may_be_taken_where_that_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty", may_be_empty=True)
    with pytest.raises(InputError, match="already exists"):
        check_output(tmp_path / "empty")


def test_a_name_is_checked_without_creating_anything(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError(args)

    monkeypatch.setattr("os.mkdir", refused)  # what a kill would leave
    check_output(tmp_path / "out")
    monkeypatch.setattr("os.access", lambda place, mode: False)  # root may write anywhere
    with pytest.raises(StorageError, match="is read-only; name another place"):
        check_output(tmp_path / "out")


def test_files_of_the_user_beside_an_output_are_left_alone(tmp_path):
    for name in ("out.new", "out.tmp", "out.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    (tmp_path / "a.json.tmp").write_text("mine")
    write_document(tmp_path / "a.json", {})
    left = ["a.json", "a.json.tmp", "out", "out.new", "out.partial", "out.tmp"]
    assert sorted(file.name for file in tmp_path.iterdir()) == left
    assert (tmp_path / "out.partial" / "mine").read_text() == "mine"


def test_a_file_appears_whole_or_not_at_all_and_may_be_read_by_all_who_may(tmp_path):
    with pytest.raises(KeyError), new_file(tmp_path / "a.txt") as room:
        room.write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())
    with new_file(tmp_path / "a.txt") as room:
        room.touch(mode=0o600)
    (tmp_path / "b.txt").touch()
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode
    with new_folder(tmp_path / "out") as folder:
        (folder / "c.txt").touch(mode=0o600)
    assert (tmp_path / "out" / "c.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def test_reserved_bytes_are_there(tmp_path):
    reserve(tmp_path / "a", 5000)
    assert (tmp_path / "a").stat().st_size == 5000
    with pytest.raises(OSError):
        reserve(tmp_path / "b", 1 << 60)


def test_what_a_killed_process_left_is_cleared_up_and_what_a_live_one_holds_stays(tmp_path):
    out = tmp_path / "out"
    child = os.fork()
    if not child:  # it dies while it writes, so that nothing of it is tidied
        room = room_beside(out)
        room.mkdir()
        (room / "half").touch()
        room_beside(out).touch()
        os._exit(9)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 2
    mine, other = room_beside(out), tmp_path / ".out.abc-1-2"
    assert not list(tmp_path.iterdir())
    for name in (mine, other, tmp_path / ".out2.txt"):
        name.touch()
    with new_folder(out) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {mine.name, other.name, ".out2.txt", folder.name}
