import json
from pathlib import Path

import pytest

from secateur.run.result import LayerReport, Result, versions


def test_sparsity_is_weighted_and_the_document_is_json():
    layers = [
        LayerReport(name=name, ratio=0.5, sparsity=sparsity, loss=None, weights=weights, seconds=0.1)
        for name, sparsity, weights in (("a", 0.2, 300), ("b", 0.8, 100))
    ]
    numbers = dict(seconds=1.0, peak_memory_mb=1.0, resumed_blocks=0, calibration_tokens=0)
    result = Result(out=Path("x"), recipe={}, layers=layers, block_weights=400, removed_weights=140, **numbers)
    assert result.sparsity == pytest.approx(0.35)
    document = json.loads(json.dumps(result.to_dict()))
    assert document["out"] == "x" and document["layers"][1]["name"] == "b"
    assert document["versions"] == versions() and "torch" in versions()
