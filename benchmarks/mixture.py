"""Whole experts removed from a small mixture that was trained here, by REAP, its parts, and at random: a JSON.

.venv/bin/python benchmarks/mixture.py [--minutes 9] [--model FOLDER]

No package holds a real mixture of experts. So one is trained on the Wikipedia articles of gensim's package: six layers
of sixteen experts, two for every token. Perplexity is on the first half of WikiText-2's test split, calibration on
its validation split. What it shows is the order of methods, not what a large mixture loses.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from secateur import Calibration, Recipe, prune
from secateur.calibrate.data import read_text
from secateur.core.seed import generator
from secateur.evaluate.perplexity import Perplexity
from secateur.experts.dropping import DropExperts
from secateur.experts.worth import Worth
from secateur.storage.source import Source, load_model, load_tokenizer

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "text"
TARGET = Path(__file__).parent / "results" / "mixture.json"
WORDS, LENGTH, BATCH, RATE = 2048, 128, 16, 2e-3
SIZES = {"hidden_size": 192, "intermediate_size": 256, "num_hidden_layers": 6, "num_attention_heads": 6}
EXPERTS = {"num_local_experts": 16, "num_experts_per_tok": 2, "num_key_value_heads": 2, "head_dim": 32}


def made_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE of a few thousand tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        text.splitlines(), trainers.BpeTrainer(vocab_size=WORDS, special_tokens=["<s>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", pad_token="<s>")


def trained(folder: Path, minutes: float) -> dict[str, Any]:
    """Train a mixture for so long and save it with its tokenizer."""
    text = read_text("bundled", "calibration")
    tokenizer = made_tokenizer(text)
    ids = torch.tensor(tokenizer(text).input_ids)
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=WORDS, max_position_embeddings=LENGTH, tie_word_embeddings=True, output_router_logits=True,
        router_aux_loss_coef=0.01, bos_token_id=0, eos_token_id=0, pad_token_id=None, **SIZES, **EXPERTS,
    )  # fmt: skip
    model = MixtralForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    draw, begun, steps, loss = torch.Generator().manual_seed(0), time.monotonic(), 0, torch.zeros(())
    while (gone := (time.monotonic() - begun) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, steps / 50) * (0.1 + 0.45 * (1 + math.cos(math.pi * gone)))
        starts = torch.randint(len(ids) - LENGTH, (BATCH,), generator=draw)
        batch = torch.stack([ids[start : start + LENGTH] for start in starts.tolist()])
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
        if steps % 100 == 0:
            print(f"{steps} steps, {gone:.0%} of the time, loss {loss:.3f}", flush=True)
    model.config.output_router_logits = False
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"steps": steps, "tokens": steps * BATCH * LENGTH, "minutes": minutes, "loss": loss.item()}


def perplexity(folder: Path) -> float:
    """Perplexity on the test text."""
    source = Source(folder)
    measure = Perplexity(source=str(DATA / "wikitext2-test.txt"), length=LENGTH, limit=400)
    return float(measure.measure(load_model(source, torch.float32), load_tokenizer(source))["perplexity"])


def by_chance(seed: int) -> Any:
    """Scores that say nothing, another set for every seed."""
    stream = generator(seed, "by chance")

    def scores(self: DropExperts, worth: Worth) -> list[float]:
        return torch.rand(len(worth.tokens), generator=stream).tolist()

    return scores


def main() -> None:
    """Train unless a folder is given, prune every way, and write benchmarks/results/mixture.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        dense = options.model or Path(place) / "dense"
        if not (dense / "config.json").exists():
            training = trained(dense, options.minutes)
            (dense / "training.json").write_text(json.dumps(training))
        told: dict[str, Any] = {"training": json.loads((dense / "training.json").read_text())}
        told |= {"dense": perplexity(dense), "experts": EXPERTS["num_local_experts"], "rows": {}}
        honest = DropExperts.scores
        ways = [("reap", None), ("expert-norm", None), ("frequency", None), *(("reap", seed) for seed in range(3))]
        for ratio in (0.25, 0.5):
            for method, seed in ways:
                DropExperts.scores = honest if seed is None else by_chance(seed)  # type: ignore[method-assign]
                name = method if seed is None else f"random, seed {seed}"
                out = Path(place) / f"{name} {ratio}"
                calibration = Calibration(source=str(DATA / "wikitext2-valid.txt"), samples=128, length=LENGTH)
                result = prune(dense, Recipe(method=method, ratio=ratio, calibration=calibration), out)
                row = {"perplexity": perplexity(out), "parameters": result.parameters[1], "seconds": result.seconds}
                told["rows"].setdefault(str(ratio), {})[name] = row
                print(ratio, name, row, flush=True)
        told["parameters"] = result.parameters[0]
    TARGET.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
