import pytest

from secateur.core.document import read_document, write_document
from secateur.core.errors import InputError
from secateur.core.output import new_folder


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
