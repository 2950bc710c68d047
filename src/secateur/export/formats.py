"""Formats a model can be written in, with one line each; nothing is imported here."""

from collections.abc import Mapping

__all__ = ["FORMATS"]

FORMATS: Mapping[str, str] = {
    "gguf": "a file for llama.cpp; takes --quantize",
    "onnx": "a folder for onnxruntime",
    "decilm": "a folder for vLLM",
    "standalone": "a folder that loads without secateur",
}
