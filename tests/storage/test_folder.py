import torch
from safetensors.torch import load_file

from secateur.storage.folder import copy_companions, write_pruned
from secateur.storage.shards import Checkpoint


def test_companions_are_copied_but_no_weights_code_or_results(tmp_path, saved):
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir(), target.mkdir()
    kept = ["config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "vocab.txt"]
    left = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "x.py", "result.json", ".git"]
    for name in kept + left:
        (source / name).write_text(name)
    copy_companions(source, target)
    assert sorted(file.name for file in target.iterdir()) == sorted(kept)


def test_replaced_tensors_are_written_and_the_rest_is_kept(tmp_path, saved):
    checkpoint = Checkpoint(saved("llama"))
    name = "model.layers.0.mlp.up_proj.weight"
    new = torch.zeros(48, 32)
    write_pruned(checkpoint, tmp_path, lambda stored: new if stored == name else None)
    before, after = load_file(saved("llama") / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys() and torch.equal(after[name], new)
    assert all(torch.equal(before[other], after[other]) for other in before if other != name)
