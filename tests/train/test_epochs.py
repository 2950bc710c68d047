import pytest
import torch
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler

from secateur.train.epochs import Epochs
from secateur.train.loop import Batches, Stateful

LENGTHS = [3 + row * 7 % 23 for row in range(37)]


def epochs(count=3.0, seed=0, batch=4):
    stream = torch.Generator().manual_seed(seed)
    return Epochs(LENGTHS, list, batch=batch, epochs=count, stream=stream)


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_the_order_is_that_of_transformers_in_a_data_loader(batch):
    stream = torch.Generator().manual_seed(5)
    sampler = LengthGroupedSampler(batch, lengths=LENGTHS, generator=stream)
    loader = DataLoader(range(37), batch_size=batch, sampler=sampler, collate_fn=list, generator=stream)
    expected = [chosen for _ in range(3) for chosen in loader]
    made = epochs(seed=5, batch=batch)
    assert [made[number] for number in range(len(made))] == expected


def test_every_epoch_has_every_example_once_and_a_part_of_one_is_rounded_up():
    made = epochs(2.05)
    drawn = [made[number] for number in range(len(made))]
    assert len(made) == 21
    for first in (0, 10):
        assert sorted(row for chosen in drawn[first : first + 10] for row in chosen) == list(range(37))
    assert max(LENGTHS) == LENGTHS[drawn[0][0]]


def test_an_order_that_is_restored_goes_on():
    straight, second = epochs(), epochs(seed=9)
    for number in range(13):
        _ = straight[number]
    second.load_state(straight.state())
    second.stream.set_state(straight.stream.get_state())
    assert [second[number] for number in range(13, 30)] == [straight[number] for number in range(13, 30)]


def test_it_fits_the_roles_of_the_loop():
    assert isinstance(epochs(), Batches) and isinstance(epochs(), Stateful)
