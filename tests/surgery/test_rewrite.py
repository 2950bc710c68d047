import pytest
import torch
from transformers import AutoModelForCausalLM

from secateur.core.errors import ModelError
from secateur.storage.folder import copy_companions, write_pruned
from secateur.storage.open_model import open_model
from secateur.storage.source import Source
from secateur.surgery.rewrite import Rewrite
from tiny_decoders import tiny_decoder


def test_what_a_run_made_is_written_under_stored_names_and_the_rest_stays(tmp_path):
    dense = tiny_decoder("mixtral")
    dense.save_pretrained(tmp_path / "dense")
    opened = open_model(Source(tmp_path / "dense"))
    name = "model.layers.1.mlp.experts.down_proj"
    made = dense.get_parameter(name) * 2
    (tmp_path / "out").mkdir()
    copy_companions(tmp_path / "dense", tmp_path / "out")
    rewrite = Rewrite(opened, (), lambda key, value: value, lambda key: made if key == name else None)
    write_pruned(opened.checkpoint, tmp_path / "out", rewrite.edits())
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for key, value in dense.named_parameters():
        assert torch.equal(written.get_parameter(key), made if key == name else value), key


def test_a_model_of_the_table_is_refused(saved):
    with pytest.raises(ModelError, match="row of the table"):
        Rewrite(open_model(Source(saved("llama"))), (), lambda name, value: value)
