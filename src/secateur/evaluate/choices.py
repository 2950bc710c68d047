"""Names that measurements take, with one line each; nothing is imported here."""

from collections.abc import Mapping

__all__ = ["DTYPES", "ENGINES"]

DTYPES: Mapping[str, str] = {
    "auto": "float32 on a CPU",
    "float32": "4 bytes a weight",
    "bfloat16": "2 bytes a weight, with the range of float32",
}
ENGINES: Mapping[str, str] = {
    "torch": "transformers in float32",
    "torch-bfloat16": "transformers in bfloat16",
    "onnxruntime": "an ONNX export; needs secateur[onnx]",
    "openvino": "an ONNX export, of networks that read pictures",
    "llama.cpp": "a GGUF export, one sequence at a time; needs secateur[llamacpp]",
}
