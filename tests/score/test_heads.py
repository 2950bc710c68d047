import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.errors import InputError
from secateur.score.heads import HeadLayout, head_magnitude, head_noise, normalise_heads, remove_heads


def all_kept(layouts):
    return [torch.ones(layout.heads, dtype=torch.bool) for layout in layouts]


def test_every_layers_norm_is_one_and_a_dead_layer_stays_zero():
    first, dead = normalise_heads([torch.tensor([3.0, 4.0]), torch.zeros(2)])
    assert first.tolist() == pytest.approx([0.6, 0.8]) and dead.tolist() == [0, 0]


def test_magnitude_is_the_norm_of_a_heads_columns():
    weight = torch.tensor([[3.0, 0, 1, 0], [0, 4, 0, 1]])
    assert head_magnitude(weight, 2).tolist() == pytest.approx([5, 2**0.5])


def test_chance_is_fixed_by_its_seed():
    layouts = [HeadLayout(4), HeadLayout(4)]
    again = [torch.equal(a, b) for a, b in zip(head_noise(layouts, 1), head_noise(layouts, 1), strict=True)]
    assert all(again) and not torch.equal(head_noise(layouts, 1)[0], head_noise(layouts, 2)[0])


@given(st.integers(0, 10_000), st.integers(0, 12), st.integers(0, 12))
def test_plans_nest_and_take_the_cheapest(seed, few, more):
    layouts = [HeadLayout(4)] * 3
    scores = head_noise(layouts, seed)
    few, more = sorted((few, more))
    small, large = (torch.cat(remove_heads(scores, layouts, all_kept(layouts), count)) for count in (few, more))
    flat = torch.cat(scores)
    assert int((~small).sum()) == few and bool((large <= small).all())
    assert few in (0, 12) or float(flat[~small].max()) <= float(flat[small].min())


def test_groups_go_whole_and_query_heads_in_balance():
    score = torch.tensor([1.0, 9, 5, 5, 2, 3])
    groups = HeadLayout(6, shared=3, unit="kv_groups")
    (kept,) = remove_heads([score], [groups], all_kept([groups]), 3)
    assert kept.tolist() == [True] * 3 + [False] * 3
    heads = HeadLayout(6, shared=3, unit="heads")
    (kept,) = remove_heads([score], [heads], all_kept([heads]), 2)
    assert kept.tolist() == [False, True, True, True, False, True]
    (kept,) = remove_heads([score], [heads], [kept], 4)
    assert kept.reshape(2, 3).sum(1).tolist() == [1, 1]


def test_some_heads_may_be_protected_and_the_impossible_is_refused():
    layouts = [HeadLayout(3), HeadLayout(3)]
    scores = [torch.zeros(3), torch.ones(3)]
    kept = remove_heads(scores, layouts, all_kept(layouts), 4, min_heads=1)
    assert [int(keep.sum()) for keep in kept] == [1, 1]
    with pytest.raises(InputError, match="only 4"):
        remove_heads(scores, layouts, all_kept(layouts), 5, min_heads=1)
    with pytest.raises(InputError, match="cannot go"):
        remove_heads([torch.zeros(3)], [HeadLayout(3, unit="none")], all_kept([HeadLayout(3)]), 1)


def test_ties_go_by_position():
    layouts = [HeadLayout(2), HeadLayout(2)]
    kept = remove_heads([torch.zeros(2)] * 2, layouts, all_kept(layouts), 1)
    assert [keep.tolist() for keep in kept] == [[False, True], [True, True]]
