from conftest import CONFIGS
from secateur.adapt.families import FAMILIES


def test_every_row_has_a_tiny_model_that_runs_the_tests():
    assert {settings.get("model_type", name) for name, settings in CONFIGS.items()} == set(FAMILIES)
