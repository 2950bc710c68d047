import pytest

from secateur.allocate.dsa import DSA
from secateur.allocate.expression import parse
from secateur.core.errors import InputError
from secateur.evaluate.perplexity import token_losses
from secateur.run.allocate import allocate_model
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
from secateur.search.trial import Trials, prepare
from secateur.storage.source import Source, load_model


@pytest.fixture(params=["llama", "gpt2"])
def model(request, saved):
    return saved(request.param)


@pytest.fixture
def trials(model, ids, tmp_path):
    prepare(Source(model), Recipe(method="wanda", ratio=0.5), ids, tmp_path / "ranks")
    return Trials(Source(model), tmp_path / "ranks", ids, 2)


def test_fitness_is_the_loss_of_the_model_wandas_mask_leaves(trials, model, ids):
    """Every layer sees the dense inputs, so only the first block's masks equal those of a sequential run."""
    dense = token_losses(load_model(Source(model)), ids).double().mean()
    problem = trials.problem
    nothing = dict.fromkeys(problem.blocks, 0.0)
    first = next(iter(problem.blocks))
    half = trials.fitness(nothing | {first: 0.5})
    assert trials.fitness(nothing) == pytest.approx(float(dense), abs=1e-6) and half > float(dense)


def test_one_pruned_layer_equals_the_run_that_prunes_it(trials, model, ids, tmp_path):
    layer = next(iter(trials.problem.layers))
    others = dict.fromkeys(trials.problem.layers, 0.0)
    recipe = Recipe(method="wanda", ratio=0.0, ratios=others | {layer: 0.5})
    result = prune(model, recipe, tmp_path / "out", ids=ids)
    loss = token_losses(load_model(Source(result.out)), ids).double().mean()
    assert trials.fitness(others | {layer: 0.5}) == pytest.approx(float(loss), abs=1e-5)


def test_expressions_of_stored_scores_are_those_of_the_survey(trials, model, ids):
    program = parse("(abslog)-(std)-(tanh)-(8)")
    reduced = trials.reduced(program)
    summaries = {name: program.finish(value) for name, value in reduced.items()}
    ratios = DSA(expression=str(program)).allocate(trials.problem._replace(summaries=summaries), 0.5)
    recipe = Recipe(method="wanda", ratio=0.5, allocator={"name": "dsa", "expression": str(program)})
    surveyed = allocate_model(model, recipe, ids=ids).ratios
    for block, layers in trials.problem.blocks.items():
        assert ratios.ratios[block] == pytest.approx(surveyed[next(iter(layers))], abs=1e-5)
    assert trials.reduced(program) == reduced


def test_what_was_prepared_is_not_prepared_again(trials, model, ids, tmp_path, monkeypatch):
    monkeypatch.setattr("secateur.search.trial.survey", None)
    prepare(Source(model), Recipe(method="wanda", ratio=0.5), ids, tmp_path / "ranks")
    assert len(list((tmp_path / "ranks").glob("*.safetensors"))) == 2


def test_damaged_ranks_and_numbers_are_refused_by_name(trials, model, ids, tmp_path):
    program = parse("(abslog)-(std)-(tanh)-(8)")
    trials.reduced(program)
    (number,) = (tmp_path / "ranks").glob("*.json")
    number.write_text(number.read_text().replace(": ", ": 7", 1))
    with pytest.raises(InputError, match=r"abslog-std\.json is damaged"):
        trials.reduced(program)
    ranks = tmp_path / "ranks" / "1.safetensors"
    whole = ranks.read_bytes()
    for content in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-8], b""):
        ranks.write_bytes(content)
        with pytest.raises(InputError, match=r"1\.safetensors is damaged"):
            prepare(Source(model), Recipe(method="wanda", ratio=0.5), ids, tmp_path / "ranks")
