import json

from safetensors.torch import load_file, save_file

from conftest import run
from secateur.terminal.console import screen


def test_prune_then_evaluate(monkeypatch, capsys, saved, text, tmp_path):
    out = tmp_path / "out"
    args = ("prune", saved("llama"), "--method", "wanda", "--pattern", "2:4", "--calibration", text)
    code, printed, _ = run(monkeypatch, capsys, *args, "--samples", 4, "--length", 16, "--out", out)
    assert code == 0 and "50.00% of" in printed
    (tmp_path / "quiz.jsonl").write_text('{"query": "w3", "choices": ["w4", "w5"], "gold": 0}')
    args = ("evaluate", out, "--perplexity", text, "--length", 16, "--tasks", tmp_path / "quiz.jsonl")
    code, printed, _ = run(monkeypatch, capsys, *args, "--json")
    assert code == 0 and json.loads(printed)["tasks"]["quiz"]["n"] == 1
    code, printed, _ = run(monkeypatch, capsys, *args)
    assert code == 0 and "perplexity" in printed and "tasks.quiz.acc_norm" in printed


def test_units_are_cut_verified_and_refused_in_words(monkeypatch, capsys, saved, text, tmp_path):
    out = tmp_path / "out"
    settings = ("--calibration", text, "--samples", 4, "--length", 16, "--round-to", 1, "--allocator", "incremental")
    args = ("prune", saved("llama"), "--method", "slimgpt", *settings)
    code, printed, _ = run(monkeypatch, capsys, *args, "--budget", "14k-params", "--out", out)
    assert code == 0 and "block weights removed" in printed
    code, printed, _ = run(monkeypatch, capsys, "verify", saved("llama"), out)
    assert code == 0 and "same: blocks differ" in printed
    code, printed, _ = run(monkeypatch, capsys, "verify", saved("llama"), out, "--json")
    assert json.loads(printed)["logits"] < 1e-4
    code, _, err = run(monkeypatch, capsys, *args, "--ratio", 0.9, "--out", tmp_path / "none")
    assert code == 2 and "every site keeps a unit" in " ".join(err.split())
    code, _, err = run(monkeypatch, capsys, "export", out, "--to", "gguf", "--out", tmp_path / "x.gguf")
    assert code == 2 and "byte-level BPE" in " ".join(err.split()) and not (tmp_path / "none").exists()


def test_a_pruned_model_is_recovered(monkeypatch, capsys, saved, text, tmp_path):
    sizes = ("--steps", 2, "--batch", 1, "--length", 16)
    args = ("recover", saved("llama"), "--text", text, "--out", tmp_path / "out", *sizes)
    code, printed, _ = run(monkeypatch, capsys, *args, "--rank", 2, "--json")
    assert code == 0 and json.loads(printed)["training"]["rank"] == 2 and (tmp_path / "out" / "config.json").exists()
    code, _, error = run(monkeypatch, capsys, *args)
    assert code == 2 and "already exists" in error


def test_verify_judges_with_its_exit_code(monkeypatch, capsys, saved, text, tmp_path):
    args = ("--method", "slimgpt", "--ratio", 0.4, "--round-to", 1, "--calibration", text, "--samples", 2)
    out = tmp_path / "out"
    assert run(monkeypatch, capsys, "prune", saved("llama"), *args, "--length", 16, "--out", out)[0] == 0
    assert run(monkeypatch, capsys, "verify", saved("llama"), out)[0] == 0
    weights = load_file(out / "model.safetensors")
    weights["model.embed_tokens.weight"] += 0.1
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    code, printed, err = run(monkeypatch, capsys, "verify", saved("llama"), out)
    assert code == 1 and not printed and err.startswith("not the same: ")
    code, printed, _ = run(monkeypatch, capsys, "verify", saved("llama"), out, "--json")
    assert code == 1 and json.loads(printed)["same"] is False


def test_speeds_are_a_table_with_units(monkeypatch, capsys, saved):
    side = {"prefill": 100.0, "decode": 10.0}
    found = {"dense": side, "pruned": {"prefill": 150.0, "decode": 12.0}, "prefill_speedup": 1.5, "decode_speedup": 1.2}
    results = {"parameter_ratio": 1.25, "prompt": 8, "new_tokens": 4, "torch": {"1": found}}
    monkeypatch.setattr("secateur.evaluate.bench.bench", lambda *args, **kwargs: results)
    monkeypatch.setattr(screen, "_width", 140)
    code, printed, _ = run(monkeypatch, capsys, "bench", saved("llama"), saved("llama"), "--prompt", 8)
    assert (
        code == 0
        and "dense, a second" in printed
        and "write tokens" in printed
        and "1.25 times fewer parameters" in printed
    )
    assert any(
        row.split() == "│ torch │ 1 │ write tokens │ 10.0 │ 12.0 │ 1.20 │".split() for row in printed.splitlines()
    )
