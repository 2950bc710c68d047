import numpy as np
import torch

from secateur.tasks.classification import Classification
from secateur.tasks.task import Task, pad_batches, paired_bootstrap, score

TASK = Classification([])


def answers(correct):
    right = np.array(correct, dtype=float)
    return np.stack([right, np.ones_like(right)], axis=1)


def test_no_change_is_no_change():
    before = answers([1, 0] * 50)
    assert paired_bootstrap(TASK, before, before) == (0.0, 0.0, 0.0, 1.0)


def test_intervals_hold_the_change_and_large_ones_are_significant():
    before, after = answers([1] * 90 + [0] * 10), answers([1] * 60 + [0] * 40)
    found = paired_bootstrap(TASK, before, after)
    assert found.low < found.change < found.high < 0 and found.p < 0.01
    assert abs(found.change + 0.3) < 1e-12
    spread = (0.3 * 0.7 / 100) ** 0.5  # of a mean of 30 losses in 100
    assert abs((found.high - found.low) / (2 * 1.96 * spread) - 1) < 0.15


def test_a_change_by_chance_is_not_significant():
    draw = np.random.default_rng(0)
    values = [paired_bootstrap(TASK, *(answers(draw.random(100) < 0.5) for _ in range(2))).p for _ in range(200)]
    assert 0.01 <= np.mean(np.array(values) < 0.05) <= 0.1


def test_batches_hold_every_row_once_and_pad_little():
    rows = [[5] * length for length in (3, 9, 1, 8, 2)]
    found = pad_batches(rows, 2, 0)
    assert sorted(row for chosen, _, _ in found for row in chosen) == list(range(5))
    for chosen, ids, mask in found:
        assert mask.sum(1).tolist() == [len(rows[row]) for row in chosen]
        assert torch.equal(ids, torch.where(mask.bool(), 5, 0))
    assert [ids.shape[1] for _, ids, _ in found] == [9, 3, 1]


def test_a_score_is_the_value_of_all_samples():
    class Fixed(Classification):
        def parts(self, model):
            return answers([1, 1, 0, 1])

    assert isinstance(TASK, Task) and score(Fixed([]), torch.nn.Identity()) == 0.75
