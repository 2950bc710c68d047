import pytest

from convnet.networks import made
from secateur.core.errors import InputError
from secateur.images.bench import ENGINES, bench_networks
from secateur.storage.network import Network, Preprocessing


def test_both_take_turns_in_every_batch():
    pair = [Network(made("Residual"), "x", preprocessing=Preprocessing(size=8)) for _ in range(2)]
    results = bench_networks(*pair, batches=(1, 2), rounds=3)
    assert list(results) == ["torch batch 1", "torch batch 2"]
    for times in results.values():
        assert times["times_faster"] == times["dense_ms"] / times["pruned_ms"] > 0
    with pytest.raises(InputError, match="known are torch"):
        bench_networks(*pair, engines=("wheel",))
    assert "openvino" in ENGINES
