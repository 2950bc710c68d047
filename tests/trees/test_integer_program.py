import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forest_cases import brute_value, case, random_keep
from secateur.core.errors import InputError
from secateur.trees.integer_program import build_program, class_errors, square_errors


@given(st.integers(0, 10_000))
def test_the_value_of_a_choice_is_that_of_walking_every_example(seed):
    one = case(seed)
    for number in range(3):
        keep = random_keep(one.program, seed + number)
        expected = brute_value(one, keep)
        value = one.program.value(keep)
        assert (value.error, value.cost) == pytest.approx(expected)
        assert one.program.objective(keep, 0.3) == pytest.approx(expected[0] + 0.3 * expected[1])


@pytest.mark.parametrize("regression", [False, True])
def test_errors_of_a_node_are_those_of_its_examples(regression):
    one = case(3, regression=regression)
    errors = (square_errors if regression else class_errors)(one.arrays, one.leaves, one.y, one.weight)
    for node in range(len(one.arrays.parent)):
        at = [row for row in range(len(one.y)) if node in one.path(row)]
        said = one.arrays.value[node]
        wrong = (one.y[at] - said[0]) ** 2 if regression else one.y[at] != said.argmax()
        assert errors[node] == pytest.approx((wrong * one.weight[at]).sum())


def test_permuting_examples_changes_nothing():
    one, other = case(5), case(5, order=True)
    keep = random_keep(one.program, 1)
    assert one.program.value(keep).cost == pytest.approx(other.program.value(keep).cost)
    assert np.allclose(one.program.gain, other.program.gain)


def test_weights_are_repetitions():
    one, other = case(7, weighted=True), case(7, repeated=True)
    for seed in range(5):
        keep = random_keep(one.program, seed)
        assert one.program.value(keep).cost == pytest.approx(other.program.value(keep).cost)
        assert one.program.value(keep).error == pytest.approx(other.program.value(keep).error)


def test_bad_costs_are_refused():
    one = case(0)
    for bad in (-1.0, np.inf):
        with pytest.raises(InputError, match="at least 0"):
            build_program(one.arrays, one.leaves, one.error, one.group, np.full(4, bad), one.weight)
