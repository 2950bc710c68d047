"""Tokens a second in prefill and in decoding, in torch, ONNX Runtime or llama.cpp; samples a second of classifiers."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from secateur.adapt.positions import max_length
from secateur.core.errors import InputError
from secateur.core.seed import generator
from secateur.infer.blocks import probe_samples, reads_pictures

__all__ = ["Speed", "forward_speed", "llama_cpp_speed", "onnx_speed", "torch_speed"]


class Speed(NamedTuple):
    """Tokens a second over the whole batch."""

    prefill: float
    decode: float


def forward_speed(model: PreTrainedModel, batch: int, length: int) -> float:
    """Samples a second of forward passes: random ids `[batch, length]`, or pictures where the model reads those."""
    if reads_pictures(model):
        samples = probe_samples(model, batch)
    else:
        longest = min(length, max_length(model.config) or length)
        samples = torch.from_numpy(_ids(model.config.vocab_size, batch, longest))
        if type(model).__name__.endswith("ForMultipleChoice"):
            samples = samples[:, None]  # [batch, choices, length]
    with torch.inference_mode():
        started = time.perf_counter()
        model(samples)
        return batch / (time.perf_counter() - started)


def torch_speed(model: PreTrainedModel, batch: int, prompt: int, new_tokens: int) -> Speed:
    """Time one prompt of random ids and `new_tokens` greedy tokens after it."""
    state: dict[str, Any] = {}

    @torch.inference_mode()
    def step(ids: np.ndarray) -> np.ndarray:
        out = model(torch.from_numpy(ids), past_key_values=state.get("past"), use_cache=True, logits_to_keep=1)
        state["past"] = out.past_key_values
        return out.logits[:, -1:].argmax(-1).numpy()

    return _timed(step, _ids(model.config.vocab_size, batch, prompt), new_tokens)


def onnx_speed(folder: Path, vocab_size: int, batch: int, prompt: int, new_tokens: int) -> Speed:
    """The same for a folder `export --to onnx` wrote. Raises InputError without ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("timing ONNX needs ONNX Runtime: pip install 'secateur[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session: Any = onnxruntime.InferenceSession(folder / "model.onnx", options)
    inputs = session.get_inputs()[1:]
    past = {item.name: np.zeros((batch, item.shape[1], 0, item.shape[3]), np.float32) for item in inputs}

    def step(ids: np.ndarray) -> np.ndarray:
        logits, *present = session.run(None, {"input_ids": ids, **past})
        past.update(zip(past, present, strict=True))
        return logits[:, -1:].argmax(-1)

    return _timed(step, _ids(vocab_size, batch, prompt), new_tokens)


def llama_cpp_speed(path: Path, prompt: int, new_tokens: int) -> Speed:
    """The same for a GGUF file, one sequence. Raises InputError without llama-cpp-python."""
    try:
        from llama_cpp import Llama
    except ImportError as error:
        raise InputError("timing llama.cpp needs its package: pip install 'secateur[llamacpp]'") from error
    engine: Any = Llama(str(path), n_ctx=prompt + new_tokens + 8, n_threads=torch.get_num_threads(), verbose=False)
    try:

        def step(ids: np.ndarray) -> np.ndarray:
            engine.eval(ids[0].tolist())
            return np.array([[engine.sample(temp=0.0)]])

        return _timed(step, _ids(engine.n_vocab(), 1, prompt), new_tokens)
    finally:
        engine.close()


def _ids(vocab_size: int, batch: int, prompt: int) -> np.ndarray:
    return torch.randint(3, vocab_size, (batch, prompt), generator=generator(0, "latency", batch, prompt)).numpy()


def _timed(step: Callable[[np.ndarray], np.ndarray], ids: np.ndarray, new_tokens: int) -> Speed:
    started = time.perf_counter()
    last = step(ids)
    filled = time.perf_counter()
    for _ in range(new_tokens):
        last = step(last)
    ended = time.perf_counter()
    return Speed(ids.size / (filled - started), len(ids) * new_tokens / (ended - filled))
