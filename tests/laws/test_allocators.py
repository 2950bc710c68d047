import pytest

from secateur.run.allocate import survey_model
from secateur.run.methods import ALLOCATORS
from secateur.run.recipe import Recipe


@pytest.mark.parametrize("target", [0.3, 0.6])
@pytest.mark.parametrize("name", sorted(ALLOCATORS))
def test_blocks_names_say_nothing_and_the_target_is_met(name, target, saved, ids):
    recipe = Recipe(method="magnitude", ratio=target, allocator=name)
    problem = survey_model(saved("llama", 3), recipe, ids=ids).problem
    names = {block: f"block {9 - number}" for number, block in enumerate(problem.blocks)}  # sorted the other way round
    renamed = problem._replace(
        blocks={names[block]: layers for block, layers in problem.blocks.items()},
        summaries={names[block]: summary for block, summary in problem.summaries.items()},
    )
    before = recipe.build_allocator().allocate(problem, target)
    after = recipe.build_allocator().allocate(renamed, target)
    assert list(before.ratios.values()) == pytest.approx(list(after.ratios.values()), abs=1e-12)
    sizes = problem.sizes | problem.layers
    assert before.mean(sizes) == pytest.approx(target, abs=1e-6)
    assert all(0 <= ratio <= 1 for ratio in before.ratios.values())
    sizes = problem.layers
    counts = survey_model(saved("llama", 3), recipe, ids=ids).ratios().counts(sizes)
    assert abs(sum(counts.values()) - target * sum(sizes.values())) <= 1
