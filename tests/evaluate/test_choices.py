import pytest

from secateur.core.errors import InputError
from secateur.evaluate.bench import bench
from secateur.evaluate.choices import DTYPES, ENGINES
from secateur.evaluate.measure import measure


def test_every_engine_and_dtype_has_a_line():
    assert all(ENGINES.values()) and all(DTYPES.values())


def test_others_are_refused_with_the_nearest_name(saved, text):
    with pytest.raises(InputError, match="engine 'lama.cpp' is unknown: did you mean 'llama.cpp'"):
        bench("dense", "pruned", engines=["lama.cpp"])
    with pytest.raises(InputError, match="dtype 'bfloat' is unknown: did you mean 'bfloat16'"):
        measure(saved("llama"), str(text), dtype="bfloat")
