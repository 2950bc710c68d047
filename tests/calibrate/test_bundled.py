import importlib.util

import pytest

from secateur.calibrate.bundled import bundled_text


@pytest.mark.skipif(importlib.util.find_spec("gensim") is None, reason="the demo extra is not installed")
def test_the_halves_share_no_article():
    calibration, evaluation = bundled_text("calibration"), bundled_text("evaluation")
    assert min(len(calibration), len(evaluation)) > 500_000
    lines = [{line for line in half.splitlines() if len(line) > 200} for half in (calibration, evaluation)]
    assert min(map(len, lines)) > 100 and not lines[0] & lines[1]
