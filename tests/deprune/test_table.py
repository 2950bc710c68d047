import json

import pytest

from deprune.networks import network
from secateur.core.compiled import library
from secateur.core.errors import InputError
from secateur.deprune.depthwise import describe_separable
from secateur.deprune.table import CostTable, layer_times, measure_table
from secateur.runtime import blocked

ENGINES = ["torch", *(["blocked"] if library(blocked._SOURCE) else [])]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_layer_is_timed_at_several_widths_and_the_file_reads_back(engine, tmp_path):
    own = network()
    parts = describe_separable(own.model, own.example, "expanded")
    table = measure_table(parts, own.example, engine=engine)
    kernels = {kernel.name: kernel.taps for kernel in parts.kernels}
    for site in parts.sites:
        for name in (*site.rows, *site.columns):
            if not parts.structure.layers[name].is_matrix:
                continue
            rows = table.layers[name]
            assert {row[0] for row in rows} >= {site.count, 16} and all(row[2] >= 0 for row in rows)
            assert {row[1] for row in rows} == ({kernels[name], kernels[name] // 2} if name in kernels else {1})
    table.save(tmp_path / "table.json")
    assert CostTable.load(tmp_path / "table.json") == table and own.model(own.example).shape == (1, 5)


@pytest.mark.parametrize("engine", ENGINES)
def test_times_have_a_name_for_every_layer(engine):
    own = network()
    times = layer_times(own.model, own.example, engine)
    assert {"stem.0", "blocks.1.depthwise", "head"} <= set(times) and all(value >= 0 for value in times.values())


def test_between_measured_points_times_lie_on_lines():
    rows = ((16, 9, 1.0), (32, 9, 3.0), (16, 4, 0.5), (32, 4, 1.0))
    table = CostTable(engine="blocked", threads=1, other=0.0, layers={"a": rows, "b": ((8, 1, 2.0),)})
    assert table.ms("a", 24, 9) == 2.0 and table.ms("a", 16, 4) == 0.5
    assert table.ms("a", 32, 6) == pytest.approx(1.8) and table.ms("a", 8, 9) == 1.0 and table.ms("b", 3, 1) == 2.0
    assert table.ms("a", 32, 1) == 0.0  # never below
    with pytest.raises(InputError, match="no times of layer c"):
        table.ms("c", 1, 1)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"format": 2, "engine": "blocked", "threads": 1, "other": 0, "layers": {}}',
        '{"format": 1, "engine": "blocked", "threads": 1, "other": -1, "layers": {}}',
        '{"format": 1, "engine": "blocked", "threads": 1, "other": 0, "layers": {"a": []}}',
        '{"format": 1, "engine": "blocked", "threads": 1, "other": 0, "layers": {"a": [[0, 1, 1.0]]}}',
        '{"format": 1, "engine": "blocked", "threads": 1, "other": 0, "layers": {"a": [[1, 1, NaN]]}}',
        '{"format": 1, "engine": "blocked", "threads": 1, "other": 0, "layers": {"a": [[1, 1]]}}',
        '{"format": 1, "engine": "blocked", "threads": 1, "other": 0, "layers": [1]}',
    ],
)
def test_a_damaged_table_is_refused_in_a_sentence(text, tmp_path):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match=r"t\.json") as told:
        CostTable.load(tmp_path / "t.json")
    assert "\n" not in str(told.value)
    assert json.dumps(str(told.value))
