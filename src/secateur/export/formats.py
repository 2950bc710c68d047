"""Formats a model can be written in, with one line each; nothing is imported here."""

from collections.abc import Mapping

__all__ = ["FORMATS", "QUANTIZATIONS"]

FORMATS: Mapping[str, str] = {
    "gguf": "a file for llama.cpp; takes --quantize",
    "onnx": "a folder for onnxruntime",
    "decilm": "a folder for vLLM",
    "standalone": "a folder that loads without secateur",
    "packed": "a folder of 2:4 weights in 9/16 of their bytes, which secateur.load runs faster on a CPU",
}
QUANTIZATIONS: Mapping[str, str] = {
    "f32": "4 bytes a weight",
    "f16": "2 bytes a weight",
    "bf16": "2 bytes a weight, with the range of f32",
    "q8_0": "8.5 bits a weight",
    "q5_1": "6 bits a weight, with an offset for every 32",
    "q5_0": "5.5 bits a weight",
    "q4_1": "5 bits a weight, with an offset for every 32",
    "q4_0": "4.5 bits a weight",
}
