import pytest
import torch

from secateur.core.errors import PatternError, RatioError
from secateur.core.pattern import Columns
from secateur.experts.dropping import DropExperts
from secateur.experts.worth import Worth


def test_the_lowest_scores_go_and_of_equal_ones_the_first():
    assert DropExperts().keep([3.0, 1.0, 2.0, 1.0], 0.25) == [0, 2, 3]
    assert DropExperts().keep([3.0, 1.0, 2.0, 1.0], 0.5) == [0, 2]
    assert DropExperts().keep([3.0, 1.0, 2.0, 1.0], 0.0) == [0, 1, 2, 3]


def test_every_group_keeps_equally_many():
    assert DropExperts().keep([1.0, 2.0, 3.0, 4.0, 50.0, 60.0, 70.0, 80.0], 0.5, groups=2) == [2, 3, 6, 7]


@pytest.mark.parametrize(
    ("ratio", "groups", "said"), [(0.2, 1, "none of 4"), (1.0, 1, "all of 4"), (0.25, 2, "groups")]
)
def test_a_ratio_that_whole_experts_cannot_meet_is_refused(ratio, groups, said):
    with pytest.raises(RatioError, match=said):
        DropExperts().keep([1.0, 2.0, 3.0, 4.0], ratio, groups)


def test_scores_are_means_over_an_experts_own_tokens():
    worth = Worth(3)
    worth.tokens, worth.seen = torch.tensor([4, 2, 0]), 10
    worth.gated, worth.norms = torch.tensor([2.0, 4.0, 0.0]), torch.tensor([8.0, 2.0, 0.0])
    assert DropExperts(by="reap").scores(worth) == [0.5, 2.0, 0.0]
    assert DropExperts(by="expert-norm").scores(worth) == [2.0, 1.0, 0.0]
    assert DropExperts(by="frequency").scores(worth) == [0.4, 0.2, 0.0]


def test_a_single_matrix_is_refused():
    with pytest.raises(PatternError, match="pattern experts"):
        DropExperts().solve(torch.ones(2, 2), {}, Columns(), 0.5)
