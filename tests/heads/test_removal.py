from itertools import combinations, pairwise

import pytest
import torch

from secateur.core.errors import InputError, RatioError
from secateur.heads.removal import Removal, exact_removal, plan_removal, removal_cut
from secateur.heads.scoring import Scoring, score_heads
from secateur.heads.subject import Reading, open_subject
from secateur.score.gates import gated


@pytest.fixture
def subject(saved_task):
    return open_subject(saved_task("BertForSequenceClassification"))


def removed(live):
    return {(place, head) for place, keep in enumerate(live) for head in range(len(keep)) if not keep[head]}


def test_steps_nest_and_count(subject, labelled):
    task = subject.read(str(labelled))
    for again in (False, True):
        told = []
        found = plan_removal(
            subject,
            task,
            [0.0, 0.25, 0.5, 1.0],
            Removal(reestimate=again),
            progress=lambda done, total, told=told: told.append(done / total),
        )
        assert told == sorted(told) and told[0] == 0 and told[-1] < 1  # one count over all rounds
        sets = [removed(live) for live in found]
        assert [len(one) for one in sets] == [0, 3, 6, 12] and all(a <= b for a, b in pairwise(sets))


def test_reestimating_one_head_at_a_time_is_brute_force_greedy(subject, labelled):
    task = subject.read(str(labelled))
    scoring = Scoring(normalise=False)
    found = plan_removal(subject, task, [n / 12 for n in range(1, 7)], Removal(scoring=scoring, reestimate=True))
    live = subject.live
    for step in found:
        scores = score_heads(subject, task, scoring, live)
        places = [(float(scores[p][h]), p, h) for p, keep in enumerate(live) for h in range(4) if keep[h]]
        _, place, head = min(places)
        live[place] = live[place].clone()
        live[place][head] = False
        assert removed(step) == removed(live)


def test_only_the_chosen_kind_loses_heads(saved_task, tmp_path):
    subject = open_subject(saved_task("MarianMTModel"))
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("w3 w4 w5\tw6 w7\nw8\tw9 w10\n")
    task = subject.read(str(pairs))
    (live,) = plan_removal(subject, task, [0.5], Removal(kinds=("cross",)))
    kinds = {subject.attentions[place].kind for place, _ in removed(live)}
    assert kinds == {"cross"} and len(removed(live)) == 6
    (live,) = plan_removal(subject, task, [0.75], Removal(at_least=1))
    assert all(bool(keep.any()) for keep in live) and len(removed(live)) == 24


def test_exact_is_the_least_loss_of_all(subject, labelled):
    task = subject.read(str(labelled), Reading(samples=6))

    def loss(pair):
        live = torch.ones(12)
        live[list(pair)] = 0
        with torch.no_grad(), gated(subject.attentions, live.split(4)):
            return sum(float(task.loss(subject.model, batch)) for batch in task.batches)

    best = min(combinations(range(12), 2), key=loss)
    assert removed(exact_removal(subject, task, 2)) == {divmod(head, 4) for head in best}
    ((live),) = plan_removal(subject, task, [2 / 12], Removal(exact=True))
    assert removed(live) == {divmod(head, 4) for head in best}


def test_an_exact_search_that_never_ends_is_refused(saved, text):
    subject = open_subject(saved("llama"))
    task = subject.read(str(text), Reading(samples=1, length=16))
    assert len(removed(exact_removal(subject, task, 2))) == 2
    with pytest.raises(InputError, match="multiple of 2"):
        exact_removal(subject, task, 3)


@pytest.mark.parametrize("ratios", [[1.5], [-0.1], [0.5, 0.2]])
def test_ratios_must_rise_within_bounds(subject, labelled, ratios):
    with pytest.raises(RatioError, match="rise from 0 to 1"):
        plan_removal(subject, subject.read(str(labelled)), ratios, Removal())


def test_the_cut_names_units_and_leaves_out_what_is_whole(saved, saved_task):
    subject = open_subject(saved_task("BertForSequenceClassification"))
    live = subject.live
    live[1] = torch.tensor([False, True, False, True])
    live[2] = torch.zeros(4, dtype=torch.bool)
    cut = removal_cut(subject, live)
    assert sorted(cut.kept.values()) == [(), (1, 3)] and len(cut.kept) == 2
    groups = open_subject(saved("llama"))
    live = [torch.tensor([False, False, True, True]), torch.ones(4, dtype=torch.bool)]
    assert removal_cut(groups, live).kept == {"model.layers.0.kv_groups": (1,)}
