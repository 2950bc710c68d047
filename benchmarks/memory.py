"""Peak memory of SparseGPT on models of 2, 8 and 32 equal blocks, each in a fresh process.

python benchmarks/memory.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent
RUN = """
import sys, torch
from secateur.run.prune import prune
from secateur.run.recipe import Recipe
ids = torch.randint(0, 1000, (16, 1024), generator=torch.Generator().manual_seed(0))
print(prune(sys.argv[1], Recipe(ratio=0.5), sys.argv[2], ids=ids).peak_memory_mb)
"""


def main() -> None:
    """Make the models, prune them, write the JSON."""
    rows = []
    for blocks in (2, 8, 32):
        with tempfile.TemporaryDirectory() as room:
            config = AutoConfig.for_model(
                "llama",
                hidden_size=576,
                intermediate_size=1536,
                num_hidden_layers=blocks,
                num_attention_heads=9,
                num_key_value_heads=3,
                vocab_size=1000,
            )
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            size = sum(parameter.nbytes for parameter in model.parameters()) / 2**20
            model.save_pretrained(f"{room}/model")
            line = [sys.executable, "-c", RUN, f"{room}/model", f"{room}/out"]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
        rows.append(
            {"blocks": blocks, "model_mb": round(size), "peak_memory_mb": round(float(done.stdout.split()[-1]))}
        )
        print(json.dumps(rows[-1]), flush=True)
    document = {"command": "python benchmarks/memory.py", "setting": "SparseGPT 50%, 16 x 1,024 tokens", "rows": rows}
    (HERE / "results" / "memory.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
