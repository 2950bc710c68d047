import itertools

import pytest

from deprune.networks import network
from secateur.core.errors import RatioError
from secateur.deprune.depthwise import describe_separable
from secateur.deprune.losses import Curve, Curves
from secateur.deprune.plan import dense_ms, plan_budget, plan_ratio
from secateur.deprune.recipe import DepruneRecipe
from secateur.deprune.table import CostTable


def described(pointwise="expanded"):
    own = network()
    return describe_separable(own.model, own.example, pointwise)


def table_of(parts):
    kernels = {kernel.name: kernel.taps for kernel in parts.kernels}
    layers = {}
    for site in parts.sites:
        for name in (*site.rows, *site.columns):
            if parts.structure.layers[name].is_matrix:
                most = kernels.get(name, 1)
                taps = {most, most // 2 or 1}
                layers[name] = tuple((w, t, 0.01 * w * t) for w in (16, site.count) for t in taps)
    return CostTable(engine="blocked", threads=1, other=1.0, layers=layers)


def curves_of(parts):
    taps = {kernel.name: Curve((0.5,), (0.3 * place + 0.1,)) for place, kernel in enumerate(parts.kernels)}
    return Curves({site.name: Curve((0.25, 0.5, 0.75), (0.2, 0.5, 2.0)) for site in parts.sites}, taps)


@pytest.mark.parametrize("share", [1.0, 0.9, 0.7, 0.5])
def test_the_plan_keeps_to_the_budget_and_loses_least(share):
    parts = described()
    table, curves = table_of(parts), curves_of(parts)
    limit = share * dense_ms(parts, table)
    recipe = DepruneRecipe(budget="0.5-ms")
    plan = plan_budget(parts, table, curves, recipe, limit)

    def cost_and_loss(widths, taps):
        cost, loss = table.other, 0.0
        for site, kernel in zip(parts.sites, parts.kernels, strict=True):
            width, kept = widths[site.name], taps[kernel.name]
            for name in (*site.rows, *site.columns):
                if name in table.layers:
                    cost += table.ms(name, width, kept if name == kernel.name else 1)
            loss += curves.channels[site.name].at(1 - width / site.count)
            loss += curves.taps[kernel.name].at(1 - kept / kernel.taps)
        return cost, loss

    chosen = {kernel.name: round(plan.taps[kernel.name] * kernel.taps) for kernel in parts.kernels}
    cost, loss = cost_and_loss(plan.widths, chosen)
    assert cost <= limit + 1e-9
    grid = [[*range(16, site.count, 16), site.count] for site in parts.sites]
    kept = [(9, 5, 3), (25, 13, 7), (9, 5, 3)]
    for widths in itertools.product(*grid):  # a coarser grid of taps than the plan may use
        for taps in itertools.product(*kept):
            other = cost_and_loss(
                {site.name: width for site, width in zip(parts.sites, widths, strict=True)},
                {kernel.name: count for kernel, count in zip(parts.kernels, taps, strict=True)},
            )
            assert other[0] > limit or other[1] >= loss - 1e-9


def test_a_budget_out_of_reach_is_refused():
    parts = described()
    with pytest.raises(RatioError, match="out of reach"):
        plan_budget(parts, table_of(parts), curves_of(parts), DepruneRecipe(budget="0.5-ms"), 1.01)


def test_taps_alone_and_channels_alone():
    parts = described("none")
    table = table_of(described())
    recipe = DepruneRecipe(budget="1-ms", pointwise="none")
    plan = plan_budget(parts, table, curves_of(parts), recipe, 0.8 * dense_ms(parts, table))
    assert not plan.widths and min(plan.taps.values()) < 1
    parts = described()
    plan = plan_budget(parts, table, curves_of(parts), DepruneRecipe(budget="1-ms", taps="none"), 40.0)
    assert not plan.taps and min(plan.widths.values()) < 64


def test_ratios_and_the_published_rule_of_halves():
    parts = described()
    plan = plan_ratio(parts, DepruneRecipe(ratio=0.5))
    assert list(plan.widths.values()) == [32, 32, 48] and set(plan.taps.values()) == {0.5}  # 24 is no multiple of 16
    assert not plan_ratio(parts, DepruneRecipe(ratio=0.5, taps="none")).taps
    halved = plan_ratio(parts, DepruneRecipe(ratio=0.45, taps="balanced", halves=True))
    kept = [halved.taps[kernel.name] * 32 * kernel.taps for kernel in parts.kernels]
    assert all(columns == pytest.approx(round(columns)) and round(columns) % 32 == 0 for columns in kept)
