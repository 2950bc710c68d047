import pytest
from transformers import AutoModelForSequenceClassification

from secateur.core.errors import InputError
from secateur.evaluate.bench import Workload, bench
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from tiny_decoders import tiny_decoder
from tiny_pictures import tiny_pictures


def test_both_models_are_timed_and_ratios_are_theirs(saved, ids, tmp_path):
    recipe = Recipe(method="slimgpt", ratio=0.4, allocator="incremental", round_to=1)
    prune(saved("llama"), recipe, tmp_path / "small", ids=ids)
    workload = Workload(batches=(1, 2), prompt=8, new_tokens=2, rounds=1)
    found = bench(str(saved("llama")), str(tmp_path / "small"), workload)
    assert found["block_parameters"][1] == pytest.approx(0.6 * found["block_parameters"][0], abs=96)
    assert found["parameter_ratio"] > 1 and set(found["torch"]) == {"1", "2"}
    one = found["torch"]["1"]
    assert one["decode_speedup"] == pytest.approx(one["pruned"]["decode"] / one["dense"]["decode"])


@pytest.mark.parametrize("made", [tiny_pictures("vit"), tiny_decoder("mpnet", AutoModelForSequenceClassification)])
def test_models_that_write_no_text_are_timed_by_their_forward_passes(made, tmp_path):
    made.save_pretrained(tmp_path / "dense")
    pair = (str(tmp_path / "dense"),) * 2
    found = bench(*pair, Workload(batches=(1, 3), prompt=8, new_tokens=2, rounds=1))["torch"]
    assert list(found["3"]) == ["dense", "pruned", "forward_speedup"] and found["1"]["dense"]["forward"] > 0
    assert found["3"]["forward_speedup"] == found["3"]["pruned"]["forward"] / found["3"]["dense"]["forward"]
    with pytest.raises(InputError, match="writes no text|needs its package"):
        bench(*pair, engines=("onnxruntime",))


def test_unknown_engines_are_refused(saved):
    with pytest.raises(InputError, match="engine 'abacus' is unknown"):
        bench(str(saved("llama")), str(saved("llama")), engines=("abacus",))


@pytest.mark.parametrize("nothing", [{"batches": (1, 0)}, {"prompt": 0}, {"new_tokens": 0}, {"rounds": 0}])
def test_a_workload_of_nothing_is_refused(nothing):
    with pytest.raises(InputError, match="must be at least 1"):
        Workload(**nothing)
