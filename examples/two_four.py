"""Prune a model to 2:4 with Wanda, reload it with plain transformers, check the zeros.

python examples/two_four.py MODEL TEXT OUT
"""

import sys

from transformers import AutoModelForCausalLM

from secateur import Calibration, Masks, Recipe, prune

model, text, out = sys.argv[1:]
plan = Calibration(source=text, samples=4, length=32)
result = prune(model, Recipe(method="wanda", pattern="2:4", calibration=plan), out)
weights = AutoModelForCausalLM.from_pretrained(out).state_dict()
masks = Masks.load(result.out / "masks.safetensors")
zeros = sum(int((weights[f"{name}.weight"] == 0).sum()) for name in masks.keep)
print(f"{zeros:,} zeros in {len(masks.keep)} matrices, sparsity {masks.sparsity:.2%}")
