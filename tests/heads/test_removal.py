from itertools import combinations, pairwise

import pytest
import torch

from secateur.core.errors import InputError, RatioError
from secateur.heads.removal import RemovalOptions, exact_removal, plan_removal, removal_cut
from secateur.heads.scoring import Scoring, score_heads
from secateur.heads.task_model import DataOptions, open_task_model
from secateur.score.gates import gated


@pytest.fixture
def task_model(saved_task):
    return open_task_model(saved_task("BertForSequenceClassification"))


def removed(keep):
    return {(place, head) for place, kept in enumerate(keep) for head in range(len(kept)) if not kept[head]}


def test_steps_nest_and_count(task_model, labelled):
    task = task_model.read(str(labelled))
    for again in (False, True):
        told = []
        found = plan_removal(
            task_model,
            task,
            [0.0, 0.25, 0.5, 1.0],
            RemovalOptions(reestimate=again),
            progress=lambda done, total, told=told: told.append(done / total),
        )
        assert told == sorted(told) and told[0] == 0 and told[-1] < 1  # one count over all rounds
        sets = [removed(keep) for keep in found]
        assert [len(one) for one in sets] == [0, 3, 6, 12] and all(a <= b for a, b in pairwise(sets))


def test_reestimating_one_head_at_a_time_is_brute_force_greedy(task_model, labelled):
    task = task_model.read(str(labelled))
    scoring = Scoring(normalise=False)
    found = plan_removal(
        task_model, task, [n / 12 for n in range(1, 7)], RemovalOptions(scoring=scoring, reestimate=True)
    )
    keep = task_model.keep
    for step in found:
        scores = score_heads(task_model, task, scoring, keep)
        places = [(float(scores[p][h]), p, h) for p, kept in enumerate(keep) for h in range(4) if kept[h]]
        _, place, head = min(places)
        keep[place] = keep[place].clone()
        keep[place][head] = False
        assert removed(step) == removed(keep)


def test_only_the_chosen_kind_loses_heads(saved_task, tmp_path):
    task_model = open_task_model(saved_task("MarianMTModel"))
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("w3 w4 w5\tw6 w7\nw8\tw9 w10\n")
    task = task_model.read(str(pairs))
    (keep,) = plan_removal(task_model, task, [0.5], RemovalOptions(kinds=("cross",)))
    kinds = {task_model.attentions[place].kind for place, _ in removed(keep)}
    assert kinds == {"cross"} and len(removed(keep)) == 6
    (keep,) = plan_removal(task_model, task, [0.75], RemovalOptions(min_heads=1))
    assert all(bool(kept.any()) for kept in keep) and len(removed(keep)) == 24


def test_exact_is_the_least_loss_of_all(task_model, labelled):
    task = task_model.read(str(labelled), DataOptions(samples=6))

    def loss(pair):
        keep = torch.ones(12)
        keep[list(pair)] = 0
        with torch.no_grad(), gated(task_model.attentions, keep.split(4)):
            return sum(float(task.loss(task_model.model, batch)) for batch in task.batches)

    best = min(combinations(range(12), 2), key=loss)
    assert removed(exact_removal(task_model, task, 2)) == {divmod(head, 4) for head in best}
    ((keep),) = plan_removal(task_model, task, [2 / 12], RemovalOptions(exact=True))
    assert removed(keep) == {divmod(head, 4) for head in best}


def test_an_exact_search_that_never_ends_is_refused(saved, text):
    task_model = open_task_model(saved("llama"))
    task = task_model.read(str(text), DataOptions(samples=1, length=16))
    assert len(removed(exact_removal(task_model, task, 2))) == 2
    with pytest.raises(InputError, match="multiple of 2"):
        exact_removal(task_model, task, 3)


@pytest.mark.parametrize("ratios", [[1.5], [-0.1], [0.5, 0.2]])
def test_ratios_must_rise_within_bounds(task_model, labelled, ratios):
    with pytest.raises(RatioError, match="rise from 0 to 1"):
        plan_removal(task_model, task_model.read(str(labelled)), ratios, RemovalOptions())


def test_the_cut_names_units_and_leaves_out_what_is_whole(saved, saved_task):
    task_model = open_task_model(saved_task("BertForSequenceClassification"))
    keep = task_model.keep
    keep[1] = torch.tensor([False, True, False, True])
    keep[2] = torch.zeros(4, dtype=torch.bool)
    cut = removal_cut(task_model, keep)
    assert sorted(cut.kept.values()) == [(), (1, 3)] and len(cut.kept) == 2
    groups = open_task_model(saved("llama"))
    keep = [torch.tensor([False, False, True, True]), torch.ones(4, dtype=torch.bool)]
    assert removal_cut(groups, keep).kept == {"model.layers.0.kv_groups": (1,)}
