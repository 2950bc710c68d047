import pytest

from secateur.report.forest import bill_figure, frontier_figure, use_figure


def test_the_frontier_is_drawn_with_what_was_chosen():
    path = [{"cost": 0.0, "error": 0.5}, {"cost": 2.0, "error": 0.1}]
    axes = frontier_figure(path, {"cost": 2.0, "error": 0.1}).axes[0]
    assert axes.lines[0].get_xdata() == pytest.approx([0, 2]) and axes.collections[0].get_offsets().tolist() == [
        [2, 0.1]
    ]
    axes = frontier_figure(path, peers={"ccp_alpha": path[::-1]}).axes[0]
    assert not axes.collections and [line.get_label() for line in axes.lines] == ["BudgetPruner", "ccp_alpha"]
    assert axes.lines[1].get_xdata() == pytest.approx([0, 2])


def test_the_unpruned_forest_is_marked_and_the_rows_are_named():
    path = [{"cost": 0.0, "error": 0.5}, {"cost": 2.0, "error": 0.1}]
    figure = frontier_figure(path, path[1], before={"cost": 9.0, "error": 0.2}, rows="20 rows of $a^.csv")
    axes = figure.axes[0]
    marks = {mark.get_label(): mark.get_offsets().tolist() for mark in axes.collections}
    assert marks == {"chosen": [[2.0, 0.1]], "unpruned": [[9.0, 0.2]]}
    assert axes.get_title("left") == "Error against the cost of a prediction\nmeasured on 20 rows of $a^.csv"
    figure.canvas.draw()  # a dollar sign in a name is no formula
    use_figure({"$a^": 0.5}).canvas.draw()
    for figure in (bill_figure([1.0], rows="2 rows"), use_figure({"a": 1.0}, rows="2 rows")):
        assert figure.axes[0].get_title("left").endswith("\nmeasured on 2 rows")


def test_bills_are_counted_and_features_ranked():
    axes = bill_figure([1.0, 1.0, 3.0]).axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 3 and axes.lines[0].get_xdata()[0] == pytest.approx(5 / 3)
    axes = use_figure({"a": 0.2, "b": 0.9, "c": 0.0}).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["b", "a"]
    assert [bar.get_width() for bar in axes.patches] == [0.9, 0.2]
    assert "1 of 3 are never needed" in axes.get_title("left")


def test_equal_bills_are_a_sentence_and_not_one_bar():
    axes = bill_figure([2.5, 2.5]).axes[0]
    assert not axes.patches and axes.texts[0].get_text() == "all 2 examples pay 2.5"
