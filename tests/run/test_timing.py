import pytest

from secateur.core.errors import RatioError
from secateur.run import timing
from secateur.run.allocate import allocate_model
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.run.timing import ratio_within, time_sizes, timed
from secateur.storage.source import Source

LINE = {0.0: 10.0, 0.25: 8.5, 0.5: 7.0, 0.75: 5.5}  # 10 - 6 ratio


def test_the_ratio_is_read_off_the_line_through_the_times():
    assert ratio_within(LINE, 7.0) == pytest.approx(0.5)
    assert ratio_within(LINE, 10.0) == pytest.approx(0.0)
    noisy = {ratio: time + (0.1 if ratio in (0.0, 0.75) else -0.1) for ratio, time in LINE.items()}
    assert ratio_within(noisy, 7.0) == pytest.approx(0.5)


def test_what_cannot_be_reached_is_named():
    with pytest.raises(RatioError, match="between 5.50 ms, with 75% .* dense model's 10.00 ms"):
        ratio_within(LINE, 5.0)
    with pytest.raises(RatioError, match="dense model"):
        ratio_within(LINE, 11.0)
    with pytest.raises(RatioError, match="do not run faster here"):
        ratio_within({0.0: 5.0, 0.5: 5.5}, 5.2)


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama-mqa"])
def test_sizes_are_really_removed_and_really_timed(name, saved):
    times = time_sizes(Source(saved(name)), Recipe(method="slimgpt", budget="1-ms", round_to=1))
    assert len(times) == 4 and all(time > 0 for time in times.values())
    assert sorted(times) == pytest.approx([0.0, 0.25, 0.5, 0.75], abs=0.02)


def test_a_run_removes_what_the_time_asks_and_says_so(saved, ids, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "time_sizes", lambda source, recipe: LINE)
    recipe = Recipe(method="slimgpt", budget="7.6-ms", round_to=1)
    result = prune(saved("llama"), recipe, tmp_path / "out", ids=ids)
    assert result.sparsity == pytest.approx(0.4, abs=0.01)
    assert result.recipe["budget"] == "7.6-ms" and result.recipe["timed_ratio"] == pytest.approx(0.4)
    found = allocate_model(saved("llama"), recipe, ids=ids)
    assert all(ratio == pytest.approx(0.4) for ratio in found.ratios.values())


def test_a_resumed_run_keeps_the_ratio_it_found(saved, ids, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "time_sizes", lambda source, recipe: LINE)
    recipe = Recipe(method="slimgpt", budget="7.6-ms", round_to=1)

    def stop(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(saved("llama"), recipe, tmp_path / "out", ids=ids, progress=stop)
    monkeypatch.setattr(timing, "time_sizes", lambda source, recipe: {0.0: 9.0, 0.5: 7.0})
    result = prune(saved("llama"), recipe, tmp_path / "out", ids=ids, resume=True)
    assert result.resumed_blocks == 1 and result.sparsity == pytest.approx(0.4, abs=0.01)


def test_other_budgets_are_left_alone(saved):
    recipe = Recipe(method="slimgpt", budget="13k-params")
    assert timed(recipe, Source(saved("llama"))) is recipe
