"""Take a quarter of every block's weights away, check the result, and generate with it.

python examples/shrink.py MODEL TEXT OUT
"""

import sys

import torch
from transformers import AutoModelForCausalLM

from secateur import Calibration, Recipe, load, prune

model, text, out = sys.argv[1:]
plan = Calibration(source=text, samples=4, length=32)
result = prune(model, Recipe(method="slimgpt", ratio=0.25, allocator="incremental", round_to=1, calibration=plan), out)
before, after = load(model).num_parameters(), load(out).num_parameters()
print(f"{before:,} parameters, {after:,} after; {result.sparsity:.1%} of the block weights are gone")
small = AutoModelForCausalLM.from_pretrained(out)  # blocks of different sizes load because secateur was imported
print(small.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=4, do_sample=False).tolist())
