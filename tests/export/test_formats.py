import pytest

from secateur.core.errors import InputError
from secateur.export.convert import _FOLDERS, convert
from secateur.export.formats import FORMATS


def test_every_format_is_written_and_has_a_line():
    assert set(FORMATS) == {"gguf", *_FOLDERS} and all(FORMATS.values())


def test_others_are_refused_with_the_nearest_name(saved, tmp_path):
    with pytest.raises(InputError, match="format 'guff' is unknown: did you mean 'gguf'"):
        convert(str(saved("llama")), "guff", tmp_path / "out")
