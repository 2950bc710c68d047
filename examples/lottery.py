"""One weight as a sum of random products, then a whole network inside a random one that nobody trained.

python examples/lottery.py
"""

import numpy as np
import torch
from torch import nn

from secateur import Lottery, certify, find_ticket, plan_target, read_target
from secateur.lottery.golden import GOLDEN, decompose, interval_count

count = interval_count(1e-3)
drawn = np.random.default_rng(0).uniform(0, 1, count)
values = GOLDEN ** -(np.arange(1, count + 1) + drawn)  # one anywhere in each golden interval
taken, rest = decompose(np.array([0.7]), values)
terms = " + ".join(f"{value:.4f}" for value in values[taken[:, 0]])
print(f"0.7 = {terms} + {rest[0]:.5f}, from {count} random values")

generator = torch.Generator().manual_seed(0)
model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
for weight in model.parameters():
    nn.init.normal_(weight, generator=generator)
target = read_target(model)
plan = plan_target(target, Lottery(eps=0.01, delta=0.05))
ticket = find_ticket(target, plan, seed=0)
found = certify(target, ticket)
width, kept = sum(layer.width for layer in plan.layers), sum(len(mask.neurons) for mask in ticket.masks)
print(f"{width:,} random neurons, {kept:,} kept: error at most {found.bound:.4f}, {found.found:.4f} found")
x = np.array([[0.6, -0.8]])
print(f"at {x[0]}: target {target(x)[0, 0]:.5f}, pruned random network {ticket(x)[0, 0]:.5f}")
