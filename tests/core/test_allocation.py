import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.allocation import Allocation
from secateur.core.errors import InputError, RatioError


def test_mean_is_weighted_by_parameters():
    assert Allocation({"a": 0.2, "b": 0.8}).mean({"a": 300, "b": 100}) == pytest.approx(0.35)
    assert Allocation({}).mean({}) == 0.0


def test_clip_and_json(tmp_path):
    clipped = Allocation({"a": 0.2, "b": 1.0}).clip(0.3, 0.7)
    assert clipped.ratios == {"a": 0.3, "b": 0.7}
    clipped.save(tmp_path / "a.json")
    assert Allocation.load(tmp_path / "a.json") == clipped


def test_bad_ratios_are_refused(tmp_path):
    with pytest.raises(RatioError):
        Allocation({"a": 1.5})
    for content in ('{"a": "x"}', '{"a": true}', "3"):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(InputError):
            Allocation.load(tmp_path / "a.json")


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10**6)), min_size=1, max_size=20),
    st.floats(0.05, 0.95),
)
def test_balanced_ratios_meet_the_target_and_counts_meet_it_to_one_weight(parts, target):
    sizes = {str(i): size for i, (_, size) in enumerate(parts)}
    balanced = Allocation({str(i): ratio for i, (ratio, _) in enumerate(parts)}).balanced(sizes, target)
    assert balanced.mean(sizes) == pytest.approx(target, abs=1e-9)
    counts = balanced.counts(sizes)
    assert abs(sum(counts.values()) - target * sum(sizes.values())) <= 1
    assert all(0 <= counts[name] <= sizes[name] for name in sizes)


def test_balancing_keeps_bounds_or_names_them():
    sizes = {"a": 1, "b": 1, "c": 2}
    found = Allocation({"a": 0.0, "b": 0.5, "c": 1.0}).balanced(sizes, 0.6, 0.4, 0.7)
    assert min(found.ratios.values()) >= 0.4 and max(found.ratios.values()) <= 0.7
    assert found.mean(sizes) == pytest.approx(0.6)
    with pytest.raises(RatioError, match=r"bounds 0\.1\.\.0\.2"):
        found.balanced(sizes, 0.6, 0.1, 0.2)


@pytest.mark.parametrize("seed", range(200))
def test_whole_numbers_of_m_meet_the_target_to_one_step(seed):
    stream = np.random.default_rng(seed)
    m = int(stream.choice([2, 4, 8, 16, 256]))
    sizes = {str(i): int(stream.integers(1, 50)) * m for i in range(int(stream.integers(1, 9)))}
    ratios = {name: float(stream.uniform(0, 1)) * (stream.random() > 0.2) for name in sizes}
    try:
        counts = Allocation(ratios).group_counts(sizes, m)
    except RatioError:
        asked = {name: ratio * sizes[name] for name, ratio in ratios.items() if ratio}
        step = max(sizes[name] for name in asked) / m
        lowest, highest = (sum(sizes[name] * k / m for name in asked) for k in (1, m - 1))
        assert not lowest - step <= sum(asked.values()) <= highest + step
        return
    assert all((count == 0) == (ratios[name] == 0) and count < m for name, count in counts.items())
    gone = sum(count * sizes[name] / m for name, count in counts.items())
    asked = sum(ratio * sizes[name] for name, ratio in ratios.items())
    assert abs(gone - asked) <= max(sizes.values()) / m + 1e-6
