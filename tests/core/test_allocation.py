import pytest

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
