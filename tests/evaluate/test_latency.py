import numpy as np
import pytest
import torch

from conftest import tiny_model
from secateur.evaluate import latency
from secateur.evaluate.latency import torch_speed


def test_speeds_are_tokens_over_seconds(monkeypatch):
    ticks = iter([0.0, 2.0, 7.0])
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(ticks))
    seen = []

    def step(ids):
        seen.append(ids.shape)
        return np.zeros((4, 1), int)

    speed = latency._timed(step, np.zeros((4, 8), int), 5)
    assert speed == (32 / 2, 20 / 5) and seen == [(4, 8)] + [(4, 1)] * 5


def test_torch_decodes_with_a_cache():
    model, seen = tiny_model("llama"), []
    model.register_forward_hook(
        lambda m, a, k, out: seen.append(out.past_key_values.get_seq_length()), with_kwargs=True
    )
    speed = torch_speed(model, 2, 8, 3)
    assert seen == [8, 9, 10, 11] and speed.prefill > 0 and speed.decode > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_is_timed(tmp_path):
    from secateur.evaluate.latency import onnx_speed
    from secateur.export.onnx import write_onnx

    pytest.importorskip("onnxruntime")
    write_onnx(tiny_model("llama"), tmp_path)
    assert onnx_speed(tmp_path, 99, 2, 8, 3).decode > 0 and torch.get_num_threads() > 0
