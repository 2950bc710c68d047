import pytest

from secateur.core.errors import InputError, NumericalError
from secateur.evaluate.agreement import verify_folders
from secateur.run.prune import prune
from secateur.run.recipe import Recipe


@pytest.mark.parametrize("pattern", ["units", "units:heads", "units:none"])
def test_folders_that_belong_together_agree(pattern, saved, ids, tmp_path):
    prune(saved("llama"), Recipe(method="slimgpt", pattern=pattern, ratio=0.4, round_to=1), tmp_path / "out", ids=ids)
    assert verify_folders(str(saved("llama")), str(tmp_path / "out")).logits < 1e-4
    with pytest.raises(InputError, match=r"no cut\.json"):
        verify_folders(str(saved("llama")), str(saved("llama")))
    with pytest.raises((InputError, NumericalError), match=r"differs|does not have"):
        verify_folders(str(saved("qwen2")), str(tmp_path / "out"))
