from types import SimpleNamespace

from secateur.run import methods
from secateur.run.methods import METHODS, find_method
from secateur.run.recipe import Recipe


def test_entry_points_of_other_packages_are_found(monkeypatch):
    entry = SimpleNamespace(name="mine", load=lambda: METHODS["wanda"])
    monkeypatch.setattr(methods, "entry_points", lambda group: [entry] if group == "secateur.methods" else [])
    assert find_method("mine") is METHODS["wanda"]
    assert find_method("other") is None


def test_every_method_builds_with_its_defaults():
    for name in METHODS:
        assert Recipe(method=name, ratio=0.5).solver().name
