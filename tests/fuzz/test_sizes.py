"""Sizes that a config or a header only claims are refused at once, and without the memory that they would take."""

import json
import shutil
import struct
import subprocess
import sys

import pytest

from fuzz.subjects import SMALL, model

CLAIMS = [
    {"num_hidden_layers": 10**9},
    {"hidden_size": 10**9},
    {"vocab_size": 10**12},
    {"intermediate_size": 10**12},
    {"max_position_embeddings": 10**12},
    {"num_attention_heads": 10**9},
    {"head_dim": 10**9},
    {"head_dim": 10**8},
    {"hidden_size": 10**8},
    {"num_hidden_layers": 10**4},
    {"num_hidden_layers": 0},
    {"hidden_size": -32},
]
# One process, so that torch is loaded once; what it holds then may grow by a gibibyte.
RUN = """
import io, json, resource, sys, time
from contextlib import redirect_stderr
from pathlib import Path
from secateur.cli.main import main
import secateur.run.prune, secateur.evaluate.measure, transformers.models.llama.modeling_llama
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**30, held + 2**30))
for line in sys.stdin:
    sys.argv, begun, said = ["secateur", *json.loads(line)], time.monotonic(), io.StringIO()
    with redirect_stderr(said):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, time.monotonic() - begun, said.getvalue()]), flush=True)
"""


def claimed(folder, claims, place):
    """A copy of the model whose config says otherwise."""
    shutil.copytree(folder, place)
    path = place / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | claims))
    return place


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of memory is Linux's")
def test_sizes_that_no_checkpoint_holds_are_refused_at_once(tmp_path):
    model(tmp_path)
    lines = []
    for number, claims in enumerate(CLAIMS):
        folder = claimed(tmp_path / "model", claims, tmp_path / str(number))
        prune = f"prune {folder} {SMALL} --method wanda --ratio 0.5 --out out".split()
        lines += [prune, f"evaluate {folder} --perplexity text.txt --length 8 --windows 1".split()]
    (tmp_path / "long").mkdir()
    shutil.copytree(tmp_path / "model", tmp_path / "long", dirs_exist_ok=True)
    (tmp_path / "long" / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    lines.append(f"prune {tmp_path / 'long'} --method magnitude --ratio 0.5 --out out".split())
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input="\n".join(map(json.dumps, lines)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for line, said in zip(lines, done.stdout.splitlines(), strict=True):
        code, seconds, err = json.loads(said)
        assert code == 2, (line, said)
        assert "did not expect" not in err and seconds < 20, (line, said)
