import pytest
import torch

from secateur.core.errors import InputError
from secateur.images.batches import Batches, held_apart
from secateur.images.pictures import Pictures

PICTURES = Pictures(torch.arange(20.0)[:, None, None, None].expand(20, 1, 8, 8) + 1, torch.arange(20))


def test_every_epoch_has_every_picture_once_in_an_order_of_its_own():
    batches = Batches(PICTURES, 5, 3, seed=1)
    assert len(batches) == 12 and batches.epoch == 4
    epochs = [torch.cat([classes for _, classes in batches[start : start + 4]]) for start in (0, 4, 8)]
    assert all(torch.equal(order.sort().values, torch.arange(20)) for order in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    again = Batches(PICTURES, 5, 3, seed=1)[7]
    assert all(torch.equal(one, other) for one, other in zip(batches[7], again, strict=True))


def test_pictures_are_shifted_and_mirrored_and_keep_their_class():
    ramp = Pictures(torch.arange(64.0).reshape(1, 1, 8, 8).expand(40, 1, 8, 8) + 1, torch.arange(40))
    pixels, _ = Batches(ramp, 40, 1)[0]
    rows = {tuple(one.flatten().tolist()) for one in pixels}
    assert len(rows) > 10 and all((one > 0).sum() >= 49 for one in pixels)
    values, classes = Batches(PICTURES, 20, 1)[0]
    assert torch.equal(values.amax((1, 2, 3)), classes + 1.0)


def test_processes_share_a_batch():
    whole = Batches(PICTURES, 6, 1)[2]
    parts = [Batches(PICTURES, 6, 1, rank=rank, ranks=2)[2] for rank in (0, 1)]
    assert torch.equal(torch.stack([part[1] for part in parts], dim=1).flatten(), whole[1])


def test_held_apart_is_the_rest():
    known, held = held_apart(PICTURES, 0.25, 0)
    assert len(held.pixels) == 5 and sorted([*known.classes.tolist(), *held.classes.tolist()]) == list(range(20))


def test_refusals():
    with pytest.raises(InputError, match="needs classes"):
        Batches(Pictures(PICTURES.pixels, None), 5, 1)
    with pytest.raises(InputError, match="as many pictures"):
        Batches(PICTURES, 21, 1)
    with pytest.raises(InputError, match="two for each process"):
        Batches(PICTURES, 3, 1, ranks=2)
