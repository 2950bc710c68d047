import pytest
import torch

from secateur.core.errors import PatternError
from secateur.run.allocate import survey_model
from secateur.run.prune import prune
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


@pytest.mark.parametrize("pattern", ["1:4", "4:8"])
def test_n_of_m_is_judged_by_masks_of_that_kind_and_rounded_as_prune_does(pattern, saved, ids, tmp_path):
    n, m = map(int, pattern.split(":"))
    recipe = Recipe(method="wanda", pattern=pattern, allocator={"name": "auto", "steps": 2})
    result = prune(saved("llama"), recipe, tmp_path / "out", ids=ids)
    gone = [round(layer.sparsity * m, 6) for layer in result.layers]
    assert all(count == int(count) and count < m for count in gone) and {"uniform", "owl"} <= set(result.candidates)
    assert result.sparsity == pytest.approx(1 - n / m, abs=0.02)
    surveyed = survey_model(saved("llama"), recipe, ids=ids)
    judge, found = surveyed.problem.judge, surveyed.ratios()
    assert judge.loss(found.ratios, "taken") == pytest.approx(min(judge.told.values()), rel=1e-6)
    for layer in result.layers:  # the judge masks what prune does
        kept = judge.layers[layer.name].weight.reshape(-1, m) != 0
        assert (kept.sum(dim=1) == m - round(layer.sparsity * m)).all()


@pytest.mark.parametrize("method, pattern", [("slimgpt", None), ("slimgpt", "channels"), ("flap", None)])
def test_where_whole_units_go_slimgpts_models_are_judged(method, pattern, saved, ids, tmp_path):
    recipe = Recipe(method=method, pattern=pattern, ratio=0.3, allocator="auto")
    surveyed = survey_model(saved("llama"), recipe, ids=ids)
    found = surveyed.ratios()
    judge = surveyed.problem.judge
    names = {"uniform", "incremental", "owl", "als", "unit-knapsack 0.1", "unit-knapsack 0.25", "unit-knapsack 0.4"}
    assert found.mean(surveyed.problem.layers) == pytest.approx(0.3, abs=1e-6) and set(judge.told) <= names
    assert judge.loss(found.ratios, "taken") == pytest.approx(min(judge.told.values()), rel=1e-6)
    result = prune(saved("llama"), recipe, tmp_path / "out", ids=ids)
    assert result.candidates == {name: loss for name, loss in judge.told.items() if name != "taken"}


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


def test_widths_that_are_no_groups_are_refused(saved, ids):
    for pattern in ("5:10", "32:64"):
        with pytest.raises(PatternError):
            survey_model(saved("llama"), Recipe(method="wanda", pattern=pattern, allocator="auto"), ids=ids).ratios()
