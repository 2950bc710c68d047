import itertools
import math

import pytest
import torch

from secateur.core.errors import PatternError
from secateur.core.pattern import NM
from secateur.masks.candidates import Candidates, likeliest, prior_logits

PATTERNS = [(2, 4), (1, 4), (4, 8), (1, 2), (3, 5), (4, 4), (1, 70), (1, 1)]


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_every_way_to_keep_n_of_m_stands_once(n, m):
    made = Candidates(NM(n=n, m=m))
    rows = {tuple(row) for row in made.table.tolist()}
    assert len(rows) == len(made) == math.comb(m, n)
    assert rows == {row for row in itertools.product((0.0, 1.0), repeat=m) if sum(row) == n} if m < 12 else True


def test_order_of_2_of_4_is_that_of_mask_files():
    words = ["".join(str(int(one)) for one in row) for row in Candidates(NM()).table.tolist()]
    assert words == ["1100", "1010", "1001", "0110", "0101", "0011"]


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_numbers_and_masks_are_one_to_one(n, m):
    made = Candidates(NM(n=n, m=m))
    numbers = torch.randint(len(made), (5, 3), generator=torch.Generator().manual_seed(n * m))
    assert torch.equal(made.numbers(made.keep(numbers)), numbers)


def test_masks_that_are_not_n_of_m_are_refused_with_their_number():
    made = Candidates(NM())
    keep = torch.tensor([[1, 1, 0, 0, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0, 1, 1]], dtype=torch.bool)
    with pytest.raises(PatternError, match="2 of 4 blocks do not keep 2 of 4"):
        made.numbers(keep)
    with pytest.raises(PatternError, match="no whole blocks of 4"):
        made.numbers(keep[:, :6])


def test_patterns_with_more_than_70_candidates_are_refused():
    with pytest.raises(PatternError, match="126 candidates"):
        Candidates(NM(n=4, m=9))


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_a_prior_is_the_likeliest_and_adds_nothing_on_average(n, m):
    made = Candidates(NM(n=n, m=m))
    numbers = torch.randint(len(made), (4, 6), generator=torch.Generator().manual_seed(1))
    logits = prior_logits(made, made.keep(numbers), strength=3.0, spread=0.01)
    assert torch.equal(likeliest(logits).long(), numbers)
    assert logits.mean(dim=0).abs().max() < 1e-6
    assert logits.amax() == pytest.approx(0.03 * (n - n * n / m), abs=1e-7)


def test_of_equal_logits_the_first_candidate_wins():
    assert likeliest(torch.zeros(6, 2, 2)).tolist() == [[0, 0], [0, 0]]
    logits = torch.randn(6, 50, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(likeliest(logits).long(), logits.argmax(dim=0))
