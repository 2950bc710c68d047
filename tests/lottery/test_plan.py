import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.errors import InputError
from secateur.lottery.distributions import Hyperbolic, Uniform
from secateur.lottery.golden import GOLDEN
from secateur.lottery.plan import Lottery, outline, plan_sizes, plan_target
from secateur.lottery.target import Target

RNG = np.random.default_rng(0)
TARGET = Target((RNG.normal(size=(6, 4)), RNG.normal(size=(3, 6))), (RNG.normal(size=6), np.zeros(3)))


@pytest.mark.parametrize("law", ["hyperbolic", "uniform"])
@pytest.mark.parametrize("sampling", ["per-weight", "per-input", "batch"])
def test_a_plan_says_the_layers_as_they_are(law, sampling):
    plan = plan_target(TARGET, Lottery(law=law, sampling=sampling))
    first, second = plan.layers
    assert (first.inputs, first.outputs, first.weights, first.live, first.sides) == (4, 6, 30, 5, 2)
    assert (second.inputs, second.outputs, second.weights, second.live, second.sides) == (6, 3, 18, 6, 1)
    for layer in plan.layers:
        pools = {"per-weight": layer.weights, "per-input": layer.live, "batch": 1}[sampling]
        assert layer.width == pools * layer.pool > 0 and layer.factor == layer.width / layer.live
        assert layer.width % layer.law.neurons == 0
        assert isinstance(layer.law, Hyperbolic if law == "hyperbolic" else Uniform)
    rows = outline(plan)
    assert rows["width"] == sum(row["width"] for row in rows["layers"]) == first.width + second.width
    assert rows["random_weights"] == first.width * 11 + second.width * 10
    assert rows["factor"] == pytest.approx(rows["width"] / 11)


def test_batch_is_narrower_than_pools_by_input_and_those_than_pools_by_weight():
    for law in ("hyperbolic", "uniform"):
        widths = [
            plan_target(TARGET, Lottery(law=law, sampling=name)).factor for name in ("batch", "per-input", "per-weight")
        ]
        assert widths == sorted(widths) and widths[0] < widths[2]


def test_intervals_reach_from_the_largest_weight_to_the_accuracy():
    for base in (1.3, 1.5, GOLDEN):
        for layer, weight in zip(plan_target(TARGET, Lottery(base=base)).layers, TARGET.weights, strict=True):
            assert layer.law.largest >= np.abs(weight).max()
            assert layer.law.largest * base**-layer.law.intervals <= layer.accuracy * (1 + 1e-8)
            assert layer.law.largest * base ** -(layer.law.intervals - 1) > layer.accuracy


@given(st.floats(1e-8, 1.0), st.floats(1e-6, 0.9))
def test_more_is_needed_for_less_error_and_more_certainty(eps, delta):
    plan = plan_target(TARGET, Lottery(eps=eps, delta=delta)).factor
    assert plan_target(TARGET, Lottery(eps=eps / 2, delta=delta)).factor >= plan
    assert plan_target(TARGET, Lottery(eps=eps, delta=delta / 2)).factor >= plan
    assert plan_target(TARGET, Lottery(eps=eps, delta=delta, radius=2.0)).factor >= plan


def test_a_target_scaled_with_its_error_needs_the_same():
    scaled = Target((TARGET.weights[0], 8 * TARGET.weights[1]), TARGET.biases)
    plans = plan_target(TARGET, Lottery(eps=0.01)), plan_target(scaled, Lottery(eps=0.08))
    assert plans[0].factor == plans[1].factor


def test_inputs_that_are_never_negative_need_less_and_zeros_nothing():
    assert plan_target(TARGET, Lottery(signed=False)).layers[0].width < plan_target(TARGET, Lottery()).layers[0].width
    empty = Target((np.zeros((6, 4)), TARGET.weights[1]), (np.zeros(6), np.ones(3)))
    plan = plan_target(empty, Lottery())
    assert plan.layers[0].width == plan.layers[0].weights == 0
    nothing = plan_target(Target((np.zeros((2, 2)),), (np.zeros(2),)), Lottery(law="uniform"))
    assert outline(nothing)["width"] == 0 == nothing.factor


def test_a_wide_error_needs_no_weight_at_all():
    for law in ("hyperbolic", "uniform"):
        assert plan_target(TARGET, Lottery(eps=1e6, law=law)).factor == 0


def test_sizes_alone_are_planned_for_the_worst_they_may_hold():
    plan = plan_sizes([4, 6, 3], Lottery(), weight=4.0, matrix=10.0)
    assert [layer.weights for layer in plan.layers] == [30, 21]
    assert max(np.abs(weight).max() for weight in TARGET.weights) < 4 and max(norm.both for norm in plan.norms) == 10
    assert plan.factor > plan_target(TARGET, Lottery()).factor


@pytest.mark.parametrize(
    "settings",
    [
        {"eps": 0.0},
        {"eps": float("nan")},
        {"delta": 0.0},
        {"delta": 1.0},
        {"radius": -1.0},
        {"law": "normal"},
        {"sampling": "batched"},
        {"base": 1.7},
        {"norm": "max"},
    ],
)
def test_what_cannot_be_asked_for_is_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        Lottery(**settings)


@pytest.mark.parametrize(
    ("sizes", "limits", "message"),
    [([3], {}, "two sizes or more"), ([3, 0], {}, "each at least 1"), ([3, 2], {"weight": 0.0}, "largest weight")],
)
def test_sizes_that_are_none_are_refused(sizes, limits, message):
    with pytest.raises(InputError, match=message):
        plan_sizes(sizes, Lottery(), **limits)
