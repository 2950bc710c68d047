from conftest import CONFIGS
from secateur.adapt.decoder_table import DECODERS


def test_every_row_has_a_tiny_model_that_runs_the_tests():
    assert {settings.get("model_type", name) for name, settings in CONFIGS.items()} == set(DECODERS)
