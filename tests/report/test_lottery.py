import pytest

from secateur.report.lottery import growth_figure, layers_figure, widths_figure

WIDTHS = {
    "eps": [0.1, 0.01, 0.001],
    "factors": {"batch": [10.0, 20.0, 30.0], "one pair": [1e6, 1e8, 1e10]},
    "fit": {"slope": 10.0, "intercept": 0.0, "r2": 1.0},
}


def test_widths_are_drawn_against_digits_and_a_far_line_leaves_the_frame():
    axes = widths_figure(WIDTHS, (0.01, 15.0)).axes[0]
    assert [line.get_label() for line in axes.lines] == ["batch", "one pair: 1e+06 and more"]
    assert axes.lines[0].get_xdata() == pytest.approx([1, 2, 3]) and axes.lines[0].get_ydata() == pytest.approx(
        [10, 20, 30]
    )
    assert axes.collections[0].get_offsets().tolist() == [[2, 15]]
    assert axes.get_ylim()[1] == pytest.approx(3000)


def test_growth_is_drawn_with_the_line_that_fits():
    axes = growth_figure(WIDTHS).axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx([10, 20, 30]) and "1.0000" in axes.lines[0].get_label()
    assert axes.get_ylim()[0] == 0 and axes.get_title("left") and widths_figure(WIDTHS).axes[0].get_title("left")


def test_widths_that_are_not_known_are_left_out():
    gaps = {"eps": [0.1, 0.01, 0.001], "factors": {"batch": [5.0, None, None], "other": [None, None, 0.0]}, "fit": None}
    assert [str(one) for one in widths_figure(gaps).axes[0].lines[0].get_ydata()] == ["5.0", "nan", "nan"]
    assert not growth_figure(gaps).axes[0].lines


def test_layers_have_three_bars_each():
    layers = [{"inputs": 3, "outputs": 2, "width": 50, "reached": 40, "kept": 9}] * 2
    axes = layers_figure(layers).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [50, 50, 40, 40, 9, 9]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["3 to 2"] * 2
