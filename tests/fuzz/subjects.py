"""What is fuzzed: for every kind of file, how to make a good folder, which files are damaged, and what is run there."""

import csv
import gzip
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_breast_cancer

from conftest import task_model, tiny_llama_gguf, tiny_model, tiny_tokenizer, words
from secateur.cli.main import main
from secateur.core.mask import Masks
from secateur.lottery.run import load_ticket
from secateur.lottery.target import Target, write_target
from secateur.storage.run_folder import RunFolder

SMALL = "--calibration ids.safetensors --samples 2 --length 8"
PRUNE = f"prune model {SMALL} --ratio 0.5 --out out"
STANDARD = f"{PRUNE} --method wanda"


class Kind(NamedTuple):
    """make: fills a folder. files: what is damaged, as globs. commands: what is run in the folder, `out` is written.

    resumes: the folder holds an unfinished run, and a command that succeeds has to write what an undisturbed one does.
    refused: no command takes the file, damaged or not. A command may also name a function of `PYTHON`.
    """

    make: object
    files: tuple
    commands: tuple
    resumes: bool = False
    refused: bool = False


def secateur(folder, line):
    """Run a command in a folder; it has to work."""
    before, argv = Path.cwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["secateur", *line.split()]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, line
    finally:
        os.chdir(before)
        sys.argv = argv


def model(folder, family="llama", blocks=2, shards=None):
    """A tiny decoder with its tokenizer, calibration ids, and a text."""
    made = tiny_model(family, blocks=blocks)
    made.save_pretrained(folder / "model", **({"max_shard_size": shards} if shards else {}))
    tiny_tokenizer(mask=True).save_pretrained(folder / "model")
    made.generation_config.save_pretrained(folder / "model")
    (folder / "text.txt").write_text(words(120))
    save_file(
        {"ids": torch.randint(3, 99, (40,), generator=torch.Generator().manual_seed(0))}, folder / "ids.safetensors"
    )


def sharded(folder):
    model(folder, shards="20KB")


def gpt2(folder):
    model(folder, "gpt2")


def classifier(folder, name="BertForSequenceClassification"):
    """A tiny encoder with a head, and labelled texts."""
    task_model(name).save_pretrained(folder / "model")
    tiny_tokenizer(mask=True).save_pretrained(folder / "model")
    rows = [(words(3 + row % 7, row), str(row % 2)) for row in range(8)]
    (folder / "rows.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    (folder / "rows.csv").write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": a, "label": int(b)}) + "\n" for a, b in rows))
    (folder / "pairs.tsv").write_text("".join(f"{words(4, row)}\t{words(3, row + 9)}\n" for row in range(4)))


def translator(folder):
    classifier(folder, "BartForConditionalGeneration")


def sentences(folder):
    """An encoder as sentence-transformers saves it."""
    classifier(folder)
    (folder / "model/1_Pooling").mkdir()
    (folder / "model/1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 32}))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "x"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "y"},
    ]
    (folder / "model/modules.json").write_text(json.dumps(modules))


def gguf(folder):
    """A .gguf file; each damaged one is converted anew."""
    tiny_llama_gguf(folder / "model.gguf")
    ids = torch.randint(3, 99, (40,), generator=torch.Generator().manual_seed(0))
    save_file({"ids": ids}, folder / "ids.safetensors")
    (folder / "text.txt").write_text(words(120))


def shrunk(folder):
    """Models with fewer units, heads and blocks, and the dense ones beside them."""
    model(folder, blocks=3)
    common = f"prune model {SMALL} --ratio 0.3"
    secateur(folder, f"{common} --method slimgpt --round-to 1 --allocator incremental --out units")
    secateur(folder, f"{common} --method shortgpt --ratio 0.4 --out blocks")


def headless(folder):
    """A classifier that has lost heads."""
    classifier(folder)
    secateur(folder, "heads prune model --data rows.tsv --ratio 0.3 --out heads")


def masked(folder):
    """A model with zeros, to be trained again."""
    model(folder)
    secateur(folder, f"prune model {SMALL} --method wanda --pattern 2:4 --out zeroed")


class Stopped(BaseException):
    """A run that ends here."""


def unfinished(command, method="save_block", last=1):
    """A maker of a folder in which a run stopped, after `method` of its folder had been called `last` times."""

    def make(folder):
        masked(folder)
        calls = []
        original = getattr(RunFolder, method)

        def counted(self, *args):
            original(self, *args)
            calls.append(args)
            if len(calls) == last:
                raise Stopped

        setattr(RunFolder, method, counted)
        try:
            secateur(folder, command)
        except Stopped:
            pass
        finally:
            setattr(RunFolder, method, original)
        assert (folder / "out.partial" / "plan.json").exists()

    return make


def ratios(folder):
    model(folder)
    secateur(folder, f"allocate model --allocator owl --ratio 0.5 {SMALL} --out ratios.json")


def recipes(folder):
    """Recipes of both kinds."""
    model(folder)
    source = "{source: ids.safetensors, samples: 2, length: 8}"
    (folder / "prune.yaml").write_text(
        f"model: model\nmethod: {{name: sparsegpt, damp: 0.01}}\nratio: 0.5\npattern: unstructured\n"
        f"allocator: {{name: owl}}\nexempt: []\nratios: {{model.layers.0: 0.4}}\nround_to: 8\n"
        f"dtype: float32\ncalibration: {source}\nout: out\n"
    )
    (folder / "command.yaml").write_text(
        "command: evaluate\nmodel: model\nperplexity: text.txt\nlength: 8\nwindows: 2\ndtype: float32\n"
    )


def texts(folder):
    """Calibration in every kind of file."""
    model(folder)
    rows = [{"text": words(30, row), "id": row} for row in range(6)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "rows.json").write_text(json.dumps(rows))
    chat = [{"messages": [{"role": "user", "content": words(30, row)}]} for row in range(4)]
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, chat)))
    path = folder / "model/tokenizer_config.json"
    template = {"chat_template": "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}\n{% endfor %}"}
    path.write_text(json.dumps(json.loads(path.read_text()) | template))
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "id"])
        writer.writeheader(), writer.writerows(rows)
    import pandas

    pandas.DataFrame(rows).to_parquet(folder / "rows.parquet")
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress((folder / "rows.jsonl").read_bytes()))
    (folder / "text.txt.gz").write_bytes(gzip.compress((folder / "text.txt").read_bytes()))


def tasks(folder):
    model(folder)
    rows = [
        {"query": "w3 w4", "choices": ["w5 w6", "w7", "w8 w9 w10"], "gold": 1},
        {"context_options": ["w3 w4", "w5"], "continuation": "w6 w7", "gold": 0},
        {"context": "w3 w4 w5", "continuation": "w6 w7"},
    ]
    for number, row in enumerate(rows):
        (folder / f"quiz{number}.jsonl").write_text("\n".join([json.dumps(row)] * 3))


def forest(folder):
    """A table, prices, and a forest grown on it."""
    frame = load_breast_cancer(as_frame=True).frame.iloc[:60, 24:]
    frame.to_csv(folder / "rows.csv", index=False)
    frame.to_parquet(folder / "rows.parquet")
    names = frame.columns[:-1]
    groups = [("a", 2), ("a", 2), ("", 1), ("", 1), ("b", 3), ("b", 3)]
    prices = [f"{name},{cost},{group}" for name, (group, cost) in zip(names, groups, strict=True)]
    (folder / "costs.csv").write_text("\n".join(["feature,cost,group", *prices]))
    secateur(folder, "forest fit rows.csv --target target --trees 3 --out grown")
    (folder / "grown/model.skops").rename(folder / "model.skops")
    secateur(folder, "forest prune model.skops --data rows.csv --target target --budget 4 --out small")


def boosted(folder):
    """A boosted forest as .skops, and what LightGBM and XGBoost save, which no command reads."""
    from lightgbm import LGBMClassifier
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
    from xgboost import XGBClassifier

    from secateur.forest.table import save_forest

    threads = torch.get_num_threads()
    forest(folder)
    frame = load_breast_cancer(as_frame=True).frame.iloc[:60, 24:]
    x, y = frame.iloc[:, :-1], frame["target"]
    save_forest(GradientBoostingClassifier(n_estimators=3, max_depth=2).fit(x, y), folder / "gradient.skops")
    save_forest(HistGradientBoostingClassifier(max_iter=2, max_depth=2).fit(x, y), folder / "histogram.skops")
    LGBMClassifier(n_estimators=2, num_leaves=4, verbose=-1, n_jobs=1).fit(x, y).booster_.save_model(
        folder / "light.txt"
    )
    grown = XGBClassifier(n_estimators=2, max_depth=2, n_jobs=1).fit(x, y)
    grown.save_model(folder / "extreme.json"), grown.save_model(folder / "extreme.ubj")
    torch.set_num_threads(threads)


def lottery(folder):
    draw = np.random.default_rng(0)
    target = Target((draw.normal(size=(4, 3)), draw.normal(size=(2, 4))), (draw.normal(size=4), draw.normal(size=2)))
    write_target(target, folder / "target.safetensors")
    np.save(folder / "rows.npy", draw.normal(size=(5, 3)))
    np.savez(folder / "rows.npz", draw.normal(size=(5, 3)))


def ticket(folder):
    lottery(folder)
    secateur(folder, "lottery target.safetensors --eps 0.1 --out drawn")


PYTHON = {
    "load_ticket": lambda: load_ticket(Path("drawn"))(np.ones((2, 3))),
    "load_masks": lambda: Masks.load(Path("zeroed/masks.safetensors")),
}


def study(folder):
    """A search that has ended."""
    model(folder)
    secateur(folder, SEARCH)
    (folder / "out").unlink()


SEARCH = (
    "search model --ratio 0.5 --trials 3 --population 2 --eval-samples 1 --calibration text.txt --samples 2 --length 8 "
    "--out out"
)
RECOVER = "recover zeroed --text text.txt --steps 26 --batch 1 --length 8 --out out"
SHORT_RECOVER = "recover {} --text text.txt --steps 1 --batch 1 --length 8 --out out"
EVALUATE = "evaluate {} --perplexity text.txt --length 8 --windows 2"
HEADS = "heads {} --out out"
FOREST = "forest prune {} --data rows.csv --target target --costs costs.csv"
TEXTS = ("rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "rows.jsonl.gz", "chat.jsonl")
FOLDER = ("model/*.json", "model/*.safetensors")
PARTIAL = ("out.partial/*.json", "out.partial/**/*.safetensors")
AGAIN = f"prune zeroed {SMALL} --ratio 0.5 --out out"
RESUMED = {
    "wanda": f"{AGAIN} --method wanda",
    "owl": f"{AGAIN} --method sparsegpt --allocator owl",
    "taylor": f"{AGAIN} --method taylor --round-to 1",
    "slimgpt": f"{AGAIN} --method slimgpt --round-to 1",
}
KINDS = {
    "model": Kind(
        model,
        FOLDER,
        (
            STANDARD,
            f"{PRUNE} --method slimgpt --round-to 1",
            f"{PRUNE} --method shortgpt",
            f"{PRUNE} --method taylor",
            f"allocate model --allocator owl --ratio 0.5 {SMALL} --out out",
            EVALUATE.format("model"),
            "export model --to decilm --out out",
            SHORT_RECOVER.format("model"),
            HEADS.format("importance model --data text.txt --samples 2 --length 8"),
        ),
    ),
    "gpt2": Kind(gpt2, FOLDER, (STANDARD, HEADS.format("prune model --data text.txt --length 8 --ratio 0.3"))),
    "sharded": Kind(sharded, FOLDER, (STANDARD, EVALUATE.format("model"))),
    "gguf": Kind(
        gguf,
        ("*.gguf",),
        ("prune model.gguf --method magnitude --ratio 0.5 --out out", "export model.gguf --to gguf --out out"),
    ),
    "shrunk": Kind(
        shrunk,
        ("units/*.json", "blocks/*.json", "units/*.safetensors", "blocks/*.safetensors", "model/config.json"),
        (
            EVALUATE.format("units"),
            EVALUATE.format("blocks"),
            "verify model units",
            "verify model blocks",
            "export units --to standalone --out out",
            "export blocks --to decilm --out out",
            SHORT_RECOVER.format("units"),
            STANDARD.replace("model", "units"),
        ),
    ),
    "heads": Kind(
        headless,
        ("heads/*.json", "heads/*.safetensors", "model/config.json"),
        (
            "verify model heads",
            HEADS.format("importance heads --data rows.tsv"),
            HEADS.format("ablate heads --data rows.tsv"),
        ),
    ),
    "masks": Kind(masked, ("zeroed/*.json", "zeroed/*.safetensors"), (RECOVER, f"{RECOVER} --teacher model")),
    **{
        f"unfinished {name}": Kind(unfinished(line), PARTIAL, (f"{line} --resume",), resumes=True)
        for name, line in RESUMED.items()
    },
    "unfinished recover": Kind(unfinished(RECOVER, "save_state"), PARTIAL, (f"{RECOVER} --resume",), resumes=True),
    "ratios": Kind(ratios, ("ratios.json",), (f"{STANDARD} --ratios ratios.json",)),
    "recipe": Kind(recipes, ("*.yaml",), ("run prune.yaml", "run command.yaml")),
    "calibration": Kind(
        texts,
        ("rows.*", "chat.jsonl", "text.txt.gz", "text.txt", "ids.safetensors", "model/tokenizer*.json"),
        (
            STANDARD,
            EVALUATE.format("model"),
            "evaluate model --perplexity text.txt.gz --length 8",
            *(f"prune model --ratio 0.5 --samples 2 --length 8 --out out --calibration {name}" for name in TEXTS),
        ),
    ),
    "tasks": Kind(
        tasks, ("quiz*.jsonl",), ("evaluate model --tasks quiz0.jsonl --tasks quiz1.jsonl --tasks quiz2.jsonl",)
    ),
    "classifier": Kind(
        classifier,
        (*FOLDER, "rows.*"),
        (
            HEADS.format("importance model --data rows.tsv"),
            HEADS.format("ablate model --data rows.csv --samples 3"),
            HEADS.format("prune model --data rows.jsonl --ratio 0.3"),
            HEADS.format("curve model --data rows.tsv --score importance --step 0.5"),
            HEADS.format("finetune model --data rows.tsv --epochs 1 --batch 4"),
        ),
    ),
    "translator": Kind(translator, (*FOLDER, "pairs.tsv"), (HEADS.format("importance model --data pairs.tsv"),)),
    "sentences": Kind(
        sentences,
        ("model/modules.json", "model/1_Pooling/*"),
        (HEADS.format("prune model --data rows.tsv --ratio 0.3"),),
    ),
    "forest": Kind(
        forest,
        ("*.skops", "*.skops", "rows.*", "costs.csv"),
        (
            f"{FOREST.format('model.skops')} --budget 4 --out out",
            "forest prune model.skops --data rows.parquet --target target --path --out out",
            "forest fit rows.csv --target target --trees 2 --costs costs.csv --out out",
            "forest fit rows.parquet --target target --trees 2 --regression --out out",
        ),
    ),
    "boosted": Kind(
        boosted,
        ("gradient.skops", "histogram.skops"),
        tuple(f"{FOREST.format(name)} --trade-off 0.01 --out out" for name in ("gradient.skops", "histogram.skops")),
    ),
    "other packages": Kind(
        boosted,
        ("light.txt", "extreme.*"),
        tuple(f"{FOREST.format(name)} --path --out out" for name in ("light.txt", "extreme.json", "extreme.ubj")),
        refused=True,
    ),
    "forest report": Kind(forest, ("small/forest.json",), ("forest report small", "forest report small --json")),
    "lottery": Kind(
        lottery,
        ("target.safetensors", "rows.*"),
        ("lottery target.safetensors --eps 0.1 --inputs rows.npy --out out", "lottery target.safetensors --plan"),
    ),
    "ticket": Kind(ticket, ("drawn/*.json", "drawn/*.safetensors"), ("load_ticket",)),
    "mask file": Kind(masked, ("zeroed/masks.safetensors",), ("load_masks",)),
    "search": Kind(study, ("out.search/*", "out.search/ranks/*"), (SEARCH,)),
}
