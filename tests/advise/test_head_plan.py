import pytest

from conftest import run
from secateur import open_task_model, prune_heads
from secateur.advise.head_plan import plan_heads
from secateur.core.errors import RatioError


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5])
def test_the_plan_says_what_the_run_does(ratio, saved_task, labelled, tmp_path):
    folder = saved_task("BertForSequenceClassification")
    told = plan_heads(open_task_model(folder), ratio)
    result = prune_heads(open_task_model(folder), (str(labelled), None), tmp_path / "out", ratio)
    assert told["heads"] == [result["heads_before"], result["heads"]]
    assert told["parameters"] == [result["parameters_before"], result["parameters"]]


def test_too_few_heads_are_refused(saved_task):
    with pytest.raises(RatioError, match="--min-heads 3"):
        plan_heads(open_task_model(saved_task("BertForSequenceClassification")), 0.9, min_heads=3)


def test_the_command_writes_nothing(monkeypatch, capsys, saved_task, labelled, tmp_path):
    args = ("heads", "prune", saved_task("BertForSequenceClassification"), "--data", labelled, "--ratio", 0.5)
    code, printed, err = run(monkeypatch, capsys, *args, "--out", tmp_path / "out", "--dry-run")
    assert code == 0 and "12 heads before, 6 after" in printed and "nothing was written" in printed, err
    assert not list(tmp_path.iterdir())
