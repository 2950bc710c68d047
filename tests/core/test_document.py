import pytest

from secateur.core.document import read_document, write_document
from secateur.core.errors import InputError


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
