"""Score a classifier's heads, take the least important half out, and load what is left.

python examples/heads.py MODEL LABELLED.tsv OUT
"""

import sys

import torch
from transformers import AutoModelForSequenceClassification

from secateur import RemovalOptions, Scoring, open_task_model, prune_heads, score_heads

model, data, out = sys.argv[1:]
task_model = open_task_model(model)
for attention, scores in zip(
    task_model.attentions, score_heads(task_model, task_model.read(data), Scoring()), strict=True
):
    print(attention.name, " ".join(f"{score:.2f}" for score in scores))
found = prune_heads(task_model, (data, None), out, 0.5, RemovalOptions(reestimate=True))
print(f"{found['heads']} of {found['heads_before']} heads left, {found['metric']} {found['after']:.3f}")
small = AutoModelForSequenceClassification.from_pretrained(out)
print(f"{small.num_parameters():,} parameters, logits {small(torch.tensor([[3, 4, 5]])).logits.tolist()}")
