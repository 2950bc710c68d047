import pytest

from secateur.core.cut import Cut
from secateur.core.errors import InputError, NumericalError
from secateur.evaluate.agreement import verify_folders
from secateur.heads.prune import prune_heads
from secateur.heads.subject import open_subject
from secateur.run.prune import prune
from secateur.run.recipe import Recipe


@pytest.mark.parametrize("pattern", ["units", "units:heads", "units:none"])
def test_folders_that_belong_together_agree(pattern, saved, ids, tmp_path):
    prune(saved("llama"), Recipe(method="slimgpt", pattern=pattern, ratio=0.4, round_to=1), tmp_path / "out", ids=ids)
    assert verify_folders(str(saved("llama")), str(tmp_path / "out")).logits < 1e-4
    with pytest.raises(InputError, match=r"no cut\.json"):
        verify_folders(str(saved("llama")), str(saved("llama")))
    with pytest.raises((InputError, NumericalError), match="they are no pair"):
        verify_folders(str(saved("qwen2")), str(tmp_path / "out"))


def test_models_that_lost_heads_agree_with_gates_at_zero(saved_task, labelled, tmp_path):
    folder = saved_task("BertForSequenceClassification")
    prune_heads(open_subject(folder), (str(labelled), None), tmp_path / "out", 0.5)
    assert verify_folders(str(folder), str(tmp_path / "out"), tokens=16).logits < 1e-4
    with pytest.raises(InputError, match="they are no pair"):
        verify_folders(str(saved_task("RobertaForSequenceClassification")), str(tmp_path / "out"))
    cut = Cut.load(tmp_path / "out" / "cut.json")
    name = next(iter(cut.kept))
    Cut({**cut.kept, name: (3,)}).save(tmp_path / "out" / "cut.json")
    with pytest.raises(NumericalError, match="do not belong together"):
        verify_folders(str(folder), str(tmp_path / "out"), tokens=16)
