import pytest
import torch

from secateur.run.allocate import survey_model
from secateur.run.recipe import Recipe


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("allocator", ["auto", {"name": "auto", "steps": 2}, "relinearised"])
def test_the_best_of_the_candidates_is_taken_and_none_is_worse_than_uniform(allocator, family, saved, ids):
    surveyed = survey_model(saved(family), Recipe(method="wanda", ratio=0.6, allocator=allocator), ids=ids)
    found = surveyed.ratios()
    judge, sizes = surveyed.problem.judge, surveyed.problem.layers
    told = dict(judge.told)
    assert found.mean(sizes) == pytest.approx(0.6, abs=1e-6)
    assert judge.loss(found.ratios, "taken") == pytest.approx(min(told.values()), rel=1e-6)
    if allocator != "relinearised":
        names = {"uniform", "owl", "als", "knapsack 0.15", "knapsack 0.25", "knapsack 0.25, down to 0"}
        assert names <= set(told) and judge.told["taken"] <= told["uniform"]


def test_a_quarter_of_the_windows_judges(saved, ids):
    surveyed = survey_model(saved("llama"), Recipe(method="wanda", ratio=0.6, allocator="auto"), ids=ids)
    judge = surveyed.problem.judge
    assert len(judge.held) == max(1, len(ids) // 4) and len(judge.ids) + len(judge.held) == len(ids)


def test_where_whole_units_go_nothing_is_judged(saved, ids):
    surveyed = survey_model(saved("llama"), Recipe(method="slimgpt", ratio=0.5, allocator="auto"), ids=ids)
    assert surveyed.problem.judge is None
    assert surveyed.ratios().mean(surveyed.problem.layers) == pytest.approx(0.5, abs=1e-6)


def test_windows_that_overlap_with_those_that_judge_are_not_read(saved):
    text = torch.randint(0, 90, (300,), generator=torch.Generator().manual_seed(0))
    starts = [0, 40, 80, 120, 160, 200, 110, 240]  # the last two judge; the fourth overlaps with one of them
    ids = torch.stack([text[start : start + 40] for start in starts])
    recipe = Recipe(method="wanda", ratio=0.6, allocator={"name": "relinearised", "steps": 0})
    judge = survey_model(saved("llama"), recipe, ids=ids).problem.judge
    assert torch.equal(judge.held, ids[6:])
    # Fewer than 16 tokens in common are no run.
    assert not any(torch.equal(row, ids[3]) for row in judge.ids) and len(judge.ids) == 5


def test_a_single_window_does_both_and_is_warned_of(saved, ids, caplog):
    recipe = Recipe(method="wanda", ratio=0.6, allocator="relinearised")
    judge = survey_model(saved("llama"), recipe, ids=ids[:1]).problem.judge
    assert torch.equal(judge.held, judge.ids) and "give more samples" in caplog.text
