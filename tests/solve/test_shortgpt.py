import pytest
import torch

from secateur.calibrate.statistic import gather
from secateur.core.errors import PatternError, RatioError
from secateur.core.pattern import Columns
from secateur.solve.shortgpt import ShortGPT


def test_the_least_influential_blocks_go_and_ties_go_first():
    assert ShortGPT().keep([0.5, 0.1, 0.3, 0.1, 0.9], 0.2) == [0, 2, 3, 4]
    assert ShortGPT().keep([0.5, 0.1, 0.3, 0.1, 0.9], 0.6) == [0, 4]
    assert ShortGPT().keep([0.5, 0.1], 0.0) == [0, 1]


def test_a_model_without_blocks_is_refused():
    with pytest.raises(RatioError, match="all 3 blocks"):
        ShortGPT().keep([1.0, 2.0, 3.0], 1.0)
    with pytest.raises(RatioError, match="removes none of 3 blocks: ask for at least 0.333"):
        ShortGPT().keep([1.0, 2.0, 3.0], 0.3)
    assert ShortGPT().keep([1.0, 2.0, 3.0], 1 / 3) == [1, 2] and ShortGPT().keep([1.0, 2.0, 3.0], 0.6) == [1, 2]


def test_single_matrices_are_refused():
    with pytest.raises(PatternError, match="whole blocks"):
        ShortGPT().solve(torch.ones(2, 2), gather(()), Columns(), 0.5)
