import json
import re

import pytest

from secateur.calibrate.data import Calibration
from secateur.core.allocation import Allocation
from secateur.core.errors import PatternError, RatioError, RecipeError, SecateurError
from secateur.core.pattern import NM, PerRow, Unstructured
from secateur.run.recipe import Recipe, load_recipe, parse_recipe
from secateur.score.ria import RIA
from secateur.score.wanda import Wanda
from secateur.solve.mask_only import MaskOnly
from secateur.solve.refit import Refit
from secateur.solve.slimgpt import SlimGPT
from secateur.solve.sparsegpt import SparseGPT


def test_names_become_objects():
    assert Recipe(ratio=0.5).solver() == SparseGPT() and Recipe(ratio=0.5).shape() == Unstructured()
    wanda = Recipe(method="wanda", ratio=0.5)
    assert wanda.solver() == MaskOnly(score=Wanda()) and wanda.shape() == PerRow()
    tuned = Recipe(method={"name": "refit", "score": {"name": "ria", "power": 0.2}, "damp": 0.1}, ratio=0.5)
    assert tuned.solver() == Refit(score=RIA(power=0.2), damp=0.1)
    assert Recipe(pattern="2:4").shape() == NM() and Recipe(pattern="1:4").target() == 0.75


def test_a_file_is_read_back(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        'model: bundled:smollm2\nout: x\nmethod: {name: sparsegpt, damp: 0.1}\npattern: "2:4"\n'
        "calibration: {source: a.txt, samples: 3}\n"
    )
    recipe = load_recipe(path)
    assert recipe.solver() == SparseGPT(damp=0.1)
    assert recipe.calibration == Calibration(source="a.txt", samples=3)
    assert parse_recipe(recipe.to_dict()) == recipe
    path.write_text("ratio: 0.5\ncalibration: a.txt\n")
    assert load_recipe(path).calibration == Calibration(source="a.txt")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"ratoi": 0.5}, "recipe has no key 'ratoi': did you mean 'ratio'?"),
        ({"ratio": 0.5, "calibration": {"sample": 3}}, "calibration has no key 'sample': did you mean 'samples'?"),
        ({"ratio": 0.5, "method": "wand"}, "method 'wand' is unknown: did you mean 'wanda'?"),
        ({"ratio": 0.5, "method": {"name": "wanda", "score": "ira"}}, "score 'ira' is unknown: did you mean 'ria'?"),
        ({"ratio": 0.5, "method": {"name": "sparsegpt", "dmap": 1}}, "method 'sparsegpt' has no key 'dmap': did you"),
        ({"ratio": 0.5, "method": {"damp": "x", "name": "sparsegpt"}}, "damp should be a number, got 'x'"),
        ({"ratio": "half"}, "ratio should be a number"),
        ({"ratio": True}, "ratio should be a number"),
        ({"pattern": 124}, "in quotes"),
        ({"ratio": 0.5, "dtype": "float8"}, "dtype 'float8' is unknown"),
        ({"ratio": 0.5, "batch_tokens": 0}, "batch_tokens"),
        ({"ratio": 0.5, "calibration": 3}, "calibration should be a mapping"),
        ({"ratio": 0.5, "calibration": {"samples": "3"}}, "samples should be a whole number, got '3'"),
        ({}, "missing ratio"),
        ([], "a recipe is a mapping"),
        ({"ratio": 0.5, "zzz": 1}, "has no key 'zzz': known are allocator"),
    ],
)
def test_mistakes_name_the_key_and_the_nearest_known_one(data, message):
    with pytest.raises(RecipeError) as error:
        parse_recipe(data)
    assert message in str(error.value)


def test_wrong_ratios_and_patterns_show_before_any_work():
    with pytest.raises(RatioError, match="outside"):
        Recipe(ratio=1.5)
    with pytest.raises(RatioError, match="removes exactly 0.5"):
        Recipe(ratio=0.7, pattern="2:4")
    with pytest.raises(PatternError, match="unknown"):
        Recipe(ratio=0.5, pattern="zigzag")
    with pytest.raises(RatioError, match="outside"):
        Recipe(ratio=0.5, ratios={"a": 3.0})


def test_unreadable_files_are_named(tmp_path):
    for content in (b"a: [", b"\xff\xfe", b"- 1"):
        (tmp_path / "r.yaml").write_bytes(content)
        with pytest.raises(RecipeError, match=r"recipe .*r\.yaml"):
            load_recipe(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("ratio: 0.5\nexempt: 5\n", "exempt should be a list of whole numbers, got 5"),
        ("ratio: {a: 1}\n", "ratio should be a number"),
        ("ratio: 0.5\nmemory_gb: .nan\n", "memory_gb should be a number"),
        ("ratio: 0.5\ncalibration: {samples: 1.5}\n", "samples should be a whole number"),
        ("ratio: 0.5\ncalibration: [1]\n", "calibration should be a mapping"),
        ("ratio: 0.5\ncalibration: {seed: -1}\n", "seed -1 should be 0 or more"),
        ("ratio: 0.5\nmethod: {name: sparsegpt, damp: -1}\n", "damp of at least 0"),
        ("ratio: 0.5\nmethod: {name: sparsegpt, block: 0}\n", "block of at least 1"),
        ("ratio: 0.5\nmethod: [wanda]\n", "method should be text or a mapping"),
        ("ratio: 0.5\nallocator: {name: owl, outlier: {a: 1}}\n", "outlier should be a number"),
        ("ratio: 0.5\nratios: {a: x}\n", "ratios should be a mapping of numbers"),
        ("ratio: 1\n", "ratio 1 would remove everything"),
        ("ratio: 0.5\nsave_dtype: int8\n", "save_dtype 'int8' is unknown"),
        ("a: &a [1]\nb: *a\n", "aliases"),
        ("ratio: 0.5\nratio: 0.6\n", "key 'ratio' is given twice"),
        ("? [1]\n: 2\n", "cannot be"),
        ("[" * 5000, "cannot be read"),
        ('out: "a\\0b"\nratio: 0.5\n', "out should be text"),
    ],
)
def test_every_field_is_checked_where_it_is_parsed(yaml, message, tmp_path):
    (tmp_path / "r.yaml").write_text(yaml)
    with pytest.raises(SecateurError, match=message):
        load_recipe(tmp_path / "r.yaml")


def test_aliases_within_aliases_are_refused_before_they_grow(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    (tmp_path / "r.yaml").write_text("\n".join(lines))
    with pytest.raises(RecipeError, match=r"r\.yaml cannot be read: aliases"):
        load_recipe(tmp_path / "r.yaml")


class Halves:
    """A stranger's score and allocator and pattern in one, which no table has."""

    needs = ()

    def __call__(self, weight, stats):
        return weight.abs()

    def allocate(self, problem, ratio):
        return Allocation(dict.fromkeys(problem.blocks, ratio))


def test_an_object_stands_wherever_a_name_does():
    solver, allocator = MaskOnly(score=Halves()), Halves()
    recipe = Recipe(method=solver, pattern=NM(n=1, m=4), allocator=allocator)
    assert recipe.solver() is solver and recipe.build_allocator() is allocator
    assert recipe.target() == 0.75 and recipe.unit() is None and recipe.shape() == NM(n=1, m=4)
    assert Recipe(method=SlimGPT(), ratio=0.5).unit() == "auto"
    assert Recipe(method={"name": "flap", "score": Halves()}, ratio=0.5).solver().score.needs == ()
    document = json.loads(json.dumps(recipe.to_dict()))
    assert document["method"]["object"] == "secateur.solve.mask_only:MaskOnly"
    assert document["pattern"] == {"object": "secateur.core.pattern:NM", "n": 1, "m": 4}
    assert document["allocator"]["object"].endswith(":Halves") and document["calibration"]["samples"] == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": 5}, "method should be text or a mapping, got 5"),
        ({"method": MaskOnly}, "method should be text or a mapping"),
        ({"allocator": [1]}, "allocator should be text or a mapping"),
        ({"method": {"name": "wanda", "score": 5}}, "score should be Score, got 5"),
    ],
)
def test_what_has_no_such_role_is_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"ratio": 0.5, **settings})


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (-1, "steps of at least 1"),
        (0, "steps of at least 1"),
        (True, "reconstruct should be"),
        ("x", "reconstruct should be"),
        ([1], "reconstruct should be"),
        ({"steps": 1.5}, "steps should be a whole number"),
        ({"stepz": 3}, "no key 'stepz': did you mean 'steps'"),
        ({"steps": 3, "rate": "3e-4"}, "rate should be a number, got '3e-4'"),
        ({"rate": 1e38}, "a rate in 0..1"),
        ({1: 2}, "reconstruct should be"),
    ],
)
def test_reconstruct_is_refused_in_a_sentence_that_names_the_field(value, sentence):
    with pytest.raises(SecateurError, match=re.escape(sentence)):
        parse_recipe({"ratio": 0.5, "reconstruct": value})


def test_refit_is_cg_or_nothing_and_not_after_an_exact_one():
    for recipe in ({"refit": "foo"}, {"refit": "cg", "method": "refit"}):
        with pytest.raises(SecateurError, match="refit"):
            parse_recipe({"ratio": 0.5, **recipe})
