import torch

from secateur.run.blocks import solve_blocks
from secateur.run.plan import make_plan
from secateur.run.recipe import Recipe
from secateur.storage.open_model import open_model
from secateur.storage.run_folder import RunFolder
from secateur.storage.source import Source


def solved(saved, folder, recipe, ids, *, resume=False):
    opened = open_model(Source(saved("llama", 3)))
    told = []
    plan, done = solve_blocks(
        make_plan(recipe, opened), opened, folder, ids, resume=resume, progress=lambda *far: told.append(far)
    )
    return plan, done, told


def test_every_block_is_solved_once_and_the_rest_is_left_unloaded(saved, ids, tmp_path):
    folder = RunFolder(tmp_path / "out")
    plan, done, told = solved(saved, folder, Recipe(method="wanda", ratio=0.5), ids)
    assert done == 0 and told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    reports = [report for number in range(3) for report in folder.load_block(number).reports]
    assert [report["name"] for report in reports] == list(plan.targets.layers)


def test_finished_blocks_are_not_solved_again(saved, ids, tmp_path):
    recipe = Recipe(method="wanda", ratio=0.5)
    solved(saved, RunFolder(tmp_path / "out"), recipe, ids)
    _, done, told = solved(saved, RunFolder(tmp_path / "out"), recipe, ids, resume=True)
    assert done == 3 and told == [(3, 3)]


def test_gradients_are_gathered_before_any_block_is_solved(saved, ids, tmp_path):
    folder = RunFolder(tmp_path / "out")
    plan, _, _ = solved(saved, folder, Recipe(method="taylor", ratio=0.4, pattern="channels"), ids)
    assert folder.has_gradients()
    for name in plan.targets.layers:
        sums, counts = folder.load_gradients(name)
        assert sums.keys() == counts.keys() == {"Gradient"} and torch.isfinite(sums["Gradient"]).all()
