import pytest

from secateur.core.errors import InputError
from secateur.export.convert import convert


def test_nothing_is_left_when_a_format_cannot_be_written(saved, tmp_path):
    with pytest.raises(InputError, match="byte-level BPE"):
        convert(str(saved("llama")), "gguf", tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


def test_unknown_formats_and_taken_names_are_refused(saved, tmp_path):
    with pytest.raises(InputError, match="known are decilm, gguf, onnx, packed, standalone"):
        convert(str(saved("llama")), "torchscript", tmp_path / "x")
    (tmp_path / "x").write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        convert(str(saved("llama")), "gguf", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_only_gguf_is_quantised_and_only_as_it_can_be(saved, tmp_path):
    with pytest.raises(InputError, match="only gguf files are quantised, and 'q8_0' was asked of 'onnx'"):
        convert(str(saved("llama")), "onnx", tmp_path / "x", quantize="q8_0")
    with pytest.raises(InputError, match="quantization 'q9' is unknown: use f32, f16"):
        convert(str(saved("llama")), "gguf", tmp_path / "x", quantize="q9")
    assert not list(tmp_path.iterdir())


def test_decilm_is_a_folder(saved, tmp_path):
    convert(str(saved("llama")), "decilm", tmp_path / "x")
    assert (tmp_path / "x" / "configuration_decilm.py").exists() and not (tmp_path / "x.partial").exists()
