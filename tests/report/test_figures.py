import sys

import numpy as np
import pytest

from secateur.core.errors import InputError
from secateur.report.figures import (
    correlation_figure,
    curve_figure,
    heads_figure,
    history_figure,
    ratios_figure,
    save_figure,
)

BLOCKS = {"b.0": {"b.0.q": 10, "b.0.down": 30}, "b.1": {"b.1.q": 10, "b.1.down": 30}}
RATIOS = {"b.0.q": 0.2, "b.0.down": 0.6, "b.1.q": 0.5, "b.1.down": 0.5}


def test_blocks_are_drawn_at_their_weighted_mean_and_matrices_at_their_ratio():
    axes = ratios_figure(BLOCKS, RATIOS, "title").axes[0]
    assert np.allclose(axes.images[0].get_array(), [[0.2, 0.5], [0.6, 0.5], [0.5, 0.5]])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["q", "down", "whole block"]
    assert axes.get_title() == "title"
    whole = ratios_figure({"b.0": {"b.0": 1}, "b.1": {"b.1": 1}}, {"b.0": 0.2, "b.1": 0.4}, "word " * 40).axes[0]
    assert whole.lines[0].get_ydata() == pytest.approx([0.2, 0.4]) and not whole.collections
    assert max(map(len, whole.get_title().splitlines())) <= 75


def test_the_correlations_are_the_pixels():
    matrix = np.array([[1.0, 0.25], [0.25, 1.0]])
    image = correlation_figure(matrix).axes[0].images[0]
    assert image.get_array().tolist() == matrix.tolist() and image.get_clim() == (0.0, 1.0)


def test_the_history_shows_the_best_so_far_and_leaves_out_what_has_no_value():
    axes = history_figure([(3.0, "a"), (float("inf"), "b"), (2.0, "c"), (2.5, "d")], 2.8).axes[0]
    assert axes.collections[0].get_offsets()[:, 0].tolist() == [0, 2, 3]
    best, uniform = axes.lines
    assert best.get_ydata() == pytest.approx([3.0, 3.0, 2.0, 2.0]) and set(uniform.get_ydata()) == {2.8}
    assert history_figure([(float("inf"), "b")], 1.0).axes[0].lines


def test_a_row_of_the_heat_map_ends_with_its_heads():
    image = heads_figure([[1.0, -2.0], [0.5]], ["encoder 0", "encoder 1"], signed=True)
    assert image.axes[1].get_ylabel() == "change of the score without the head"
    image = image.axes[0].images[0]
    assert image.get_array().mask.tolist() == [[False, False], [False, True]] and image.get_clim() == (-2.0, 2.0)


def test_a_curve_starts_from_the_whole_model_and_chance_is_one_family():
    lines = {"importance": [0.8, 0.5], "random 0": [0.6, 0.5], "random 1": [0.7, 0.5]}
    axes = curve_figure([0.0, 0.5, 1.0], 0.9, lines, "accuracy").axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx([0.9, 0.8, 0.5])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["importance", "random", "all heads"]
    assert curve_figure([0.0, 1.0], 9.0, {"a": [99.0]}, "perplexity").axes[0].get_yscale() == "log"


def test_figures_are_written_whole_and_refused_in_a_sentence(tmp_path, monkeypatch):
    figure = ratios_figure(BLOCKS, RATIOS)
    save_figure(figure, tmp_path / "new" / "ratios.png")
    assert (tmp_path / "new" / "ratios.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="cannot be written"):
        save_figure(figure, tmp_path / "ratios.docx")
    assert [file.name for file in tmp_path.rglob("*.*")] == ["ratios.png"]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"secateur\[report\]"):
        ratios_figure(BLOCKS, RATIOS)
