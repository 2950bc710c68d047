import pytest
import torch

from secateur.calibrate.data import Calibration
from secateur.core.errors import InputError
from secateur.core.pattern import NM
from secateur.masks.prior import Room, find_prior
from secateur.storage.source import Source


@pytest.mark.parametrize("name", ["magnitude", "wanda", "admm"])
def test_a_method_gives_its_masks_and_leaves_nothing(name, saved, text, tmp_path):
    seen = []
    place = Room(tmp_path / "out", lambda done, of: seen.append(done))
    keep = find_prior(name, Source(saved("llama")), NM(), Calibration(source=str(text)), place)
    assert seen and list(tmp_path.iterdir()) == []
    assert all((mask.reshape(len(mask), -1, 4).sum(dim=2) == 2).all() for mask in keep.values())
    assert all(mask.dtype == torch.bool for mask in keep.values()) and len(keep) == 14


def test_nothing_is_a_prior_and_other_names_are_refused(saved, tmp_path):
    place = Room(tmp_path / "out", lambda done, of: None)
    source, drawn = Source(saved("llama")), Calibration()
    assert find_prior("none", source, NM(), drawn, place) is None
    with pytest.raises(InputError, match="neither a method"):
        find_prior("sparsgpt", source, NM(), drawn, place)
