from itertools import pairwise

import pytest

from secateur.report.style import COLOURS, End, clean, figure_of, name_lines, save_both


def test_names_stand_right_of_the_axes_apart_and_in_the_order_of_their_lines():
    _, axes = figure_of()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    name_lines(axes, {name: End(1, y, COLOURS[0]) for name, y in zip("abcd", (0.5, 0.51, 0.99, 1.0), strict=True)})
    heights = [text.xyann[1] for text in axes.texts]
    assert all(text.xyann[0] > 1 for text in axes.texts)
    assert all(upper - lower >= 0.0519 for lower, upper in pairwise(heights))
    assert heights[-1] <= 1.0 and heights[0] == pytest.approx(0.5)
    assert not axes.spines["top"].get_visible() and not axes.spines["right"].get_visible()


def test_logarithmic_heights_follow_the_scale():
    _, axes = figure_of()
    axes.set(yscale="log", ylim=(1, 100))
    name_lines(axes, {"ten": End(1, 10, COLOURS[1]), "beyond": End(1, 1e6, COLOURS[2])})
    assert [text.xyann[1] for text in axes.texts] == pytest.approx([0.5, 1.0])


def test_equal_figures_are_equal_files(tmp_path):
    for room in ("a", "b"):
        figure, axes = figure_of()
        axes.plot([1, 2], [3, 4])
        clean(axes)
        save_both(figure, tmp_path / room / "line")
    for suffix in (".png", ".svg"):
        files = [(tmp_path / room / f"line{suffix}").read_bytes() for room in ("a", "b")]
        assert files[0] == files[1] and len(files[0]) > 1000
