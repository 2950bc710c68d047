"""Names that measurements take, with one line each; nothing is imported here."""

from collections.abc import Mapping

__all__ = ["DTYPES", "ENGINES", "HEAD_SCORES", "PRUNING_DTYPES"]

DTYPES: Mapping[str, str] = {
    "auto": "float32 on a CPU",
    "float32": "4 bytes a weight",
    "bfloat16": "2 bytes a weight, with the range of float32",
}
PRUNING_DTYPES: Mapping[str, str] = {
    **DTYPES,
    "auto": "mixed where weights are stored in 16 bits and it is faster here, else float32",
    "mixed": "products of forward passes in bfloat16, all else in float32",
}
ENGINES: Mapping[str, str] = {
    "torch": "transformers in float32",
    "torch-bfloat16": "transformers in bfloat16",
    "onnxruntime": "an ONNX export; needs secateur[onnx]",
    "openvino": "an ONNX export, of networks that read pictures",
    "blocked": "compiled code for networks that read pictures; leaves out taps that are zero",
    "llama.cpp": "a GGUF export, one sequence at a time; needs secateur[llamacpp]",
}
HEAD_SCORES: Mapping[str, str] = {
    "importance": "how much the loss notices a gate on the head (Michel et al. 2019)",
    "magnitude": "the size of the head's output columns",
    "random": "chance, by a seed",
    "ablation": "the score lost without the head; a forward pass each",
}
