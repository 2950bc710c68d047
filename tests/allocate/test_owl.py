import pytest
import torch

from secateur.allocate.owl import OWL, outlier_share
from secateur.allocate.problem import Problem
from secateur.core.errors import InputError


def test_outliers_are_counted_over_all_matrices():
    scores = [torch.ones(2, 10), torch.cat([torch.ones(79), torch.tensor([200.0])]).reshape(8, 10)]
    assert outlier_share(scores, 5.0) == pytest.approx(1 / 100)
    assert outlier_share(scores, 100.0) == 0


def test_more_outliers_keep_more_and_names_do_not_matter():
    blocks = {name: {f"{name}.w": size} for name, size in zip("abc", (5, 7, 9), strict=True)}
    found = OWL().allocate(Problem(blocks, {"a": 0.01, "b": 0.03, "c": 0.02}), 0.7).ratios
    assert found["b"] < found["c"] < found["a"]
    turned = Problem(dict(reversed(blocks.items())), {"c": 0.02, "b": 0.03, "a": 0.01})
    assert OWL().allocate(turned, 0.7).ratios == pytest.approx(found)
    with pytest.raises(InputError, match="half"):
        OWL(half=0.7)
