import torch

from secateur.convnet.labels import NOTHING, Labels, first_along, narrowed, varying


def test_what_is_joined_in_steps_is_one_group():
    labels = Labels()
    a, b, c = labels.fresh(3), labels.fresh(3), labels.fresh(3)
    labels.join(a, b)
    labels.join(b[:2], c[1:])
    groups = labels.groups()
    assert torch.equal(groups.of(a), groups.of(b)) and torch.equal(groups.of(c[1:]), groups.of(a[:2]))
    assert len(torch.unique(groups.of(torch.cat([a, b, c])))) == 4


def test_nothing_joins_nothing_and_is_no_group():
    labels = Labels()
    a = labels.fresh(2)
    labels.join(torch.tensor([NOTHING, a[0]]), torch.tensor([a[1], NOTHING]))
    groups = labels.groups()
    assert groups.of(torch.tensor([NOTHING])).item() == NOTHING and groups.of(a).unique().numel() == 2


def test_what_is_frozen_takes_its_group_along_and_says_why():
    labels = Labels()
    a, b = labels.fresh(3), labels.fresh(3)
    labels.join(a, b)
    labels.freeze(b[:1].expand(4), "the output")
    labels.freeze(None, "nothing")
    groups = labels.groups()
    assert groups.free(a).eq(NOTHING).tolist() == [True, False, False] and groups.reasons == {"the output": 1}


def test_joined_along_a_dimension_one_label_stands_for_all():
    labels = Labels()
    square = labels.fresh(6).reshape(2, 3)
    one = labels.join_along(square, [0])
    groups = labels.groups()
    assert one.shape == (1, 3) and torch.equal(groups.of(square[0]), groups.of(square[1]))


def test_repeats_are_looked_at_once():
    wide = torch.arange(3)[:, None, None].expand(3, 50, 60)
    assert narrowed(wide, wide)[0].shape == (3, 1, 1) and first_along(wide, [1, 2]).shape == (3, 1, 1)
    assert varying(wide) == [0]
    labels = Labels()
    left, right = labels.fresh(3), labels.fresh(3)
    labels.join(*(part.repeat_interleave(1000) for part in (left, right)))
    assert sum(pairs.shape[1] for pairs in labels._pairs) == 3
    assert Labels().groups().of(torch.tensor([NOTHING])).item() == NOTHING
