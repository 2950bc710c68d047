import pytest

from secateur.core.cut import Cut
from secateur.core.errors import InputError


def test_a_cut_survives_json(tmp_path):
    cut = Cut({"heads": (0, 2, 5), "ffn": (1,), "gone": ()})
    cut.save(tmp_path / "cut.json")
    assert Cut.load(tmp_path / "cut.json") == cut


@pytest.mark.parametrize("kept", [(1, 1), (2, 1), (-1, 0)])
def test_bad_indices_are_refused(kept):
    with pytest.raises(InputError, match="rising, distinct"):
        Cut({"heads": kept})


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "cut.json"
    for content in ("{", "[]", '{"heads": 3}', '{"heads": [true]}'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"cut\.json"):
            Cut.load(path)
