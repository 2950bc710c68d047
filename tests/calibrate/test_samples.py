import itertools

import pytest
import torch

from secateur.calibrate.samples import BlockSamples, Samples
from secateur.core.errors import CalibrationError


def test_the_same_tokens_are_kept_however_they_come():
    x = torch.randn(300, 4)
    whole, pieces, wide = Samples(64), Samples(64), Samples(64)
    whole.update(x)
    for part in x.split(37):
        pieces.update(part)
        wide.update(torch.cat([part, part], dim=1))
    assert torch.equal(whole.value, pieces.value) and len(whole.value) == 64
    assert torch.equal(wide.value[:, :4], whole.value)
    kept = [int((x == row).all(dim=1).nonzero()) for row in whole.value]
    assert kept == sorted(kept) and max(kept) > 200 and min(kept) < 100


def test_two_parts_of_a_stream_merge_to_the_whole():
    x = torch.randn(200, 3)
    whole, first, second = Samples(50), Samples(50), Samples(50, start=120)
    whole.update(x)
    first.update(x[:120])
    second.update(x[120:])
    assert torch.equal(first.merge(second).value, whole.value)
    assert torch.equal(second.merge(first).value, whole.value)


def test_blocks_are_sampled_before_after_or_by_what_they_add_with_or_without_first_tokens():
    before, after = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    parts = {"input": before, "output": after, "update": after - before}
    for source, drop in itertools.product(parts, (False, True)):
        expected = parts[source][:, int(drop) :]
        watcher = BlockSamples(Samples(), source, drop)
        watcher.update(before, after)
        assert torch.equal(watcher.value, expected.reshape(-1, 3))


def test_nothing_seen_and_nan_are_errors():
    bad = Samples()
    bad.update(torch.tensor([[float("nan")]]))
    for samples in (Samples(), bad):
        with pytest.raises(CalibrationError, match="missing or hold NaN"):
            _ = samples.value
