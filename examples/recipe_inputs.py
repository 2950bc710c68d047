"""Make what the recipes of commands read, from data that packages bring: run it once in a fresh clone.

    python examples/recipe_inputs.py out/recipes

It writes rows and costs of breast cancers and a forest grown on other rows, sentences of two Wikipedia articles, and
MiniLM fine-tuned to tell them apart. Then `secateur run recipes/forest-budget.yaml` and recipes/heads-40.yaml run.
"""

import random
import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer

from secateur import Finetuning, finetune
from secateur.calibrate.bundled import bundled_articles
from secateur.forest.run import Growth, fit_forest


def write_forest(folder: Path) -> None:
    frame = load_breast_cancer(as_frame=True).frame
    frame.iloc[::2].to_csv(folder / "rows.csv", index=False)
    frame.iloc[1::2].to_csv(folder / "held-out.csv", index=False)
    costs = ["feature,cost", *(f"{name},{1 + number % 3}" for number, name in enumerate(frame.columns[:-1]))]
    (folder / "costs.csv").write_text("\n".join(costs) + "\n")
    fit_forest(folder / "rows.csv", "target", folder / "grown", Growth(trees=40))


def write_classifier(folder: Path) -> None:
    articles = sorted(bundled_articles(), key=lambda article: -len(article[1]))[:2]
    lines = []
    for label, (_, text) in enumerate(articles):
        sentences = [part.strip() for part in text.replace("\n", " ").split(". ") if 40 < len(part) < 300]
        lines += [f"{sentence}\t{label}" for sentence in sentences[:400]]
    random.Random(0).shuffle(lines)
    (folder / "dev.tsv").write_text("\n".join(lines[:200]) + "\n")
    (folder / "train.tsv").write_text("\n".join(lines[200:]) + "\n")
    plan = Finetuning(epochs=1.0, length=64)
    finetune("bundled:minilm", folder / "train.tsv", folder / "classifier", plan, test=folder / "dev.tsv")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True)
    write_forest(place)
    write_classifier(place)
    print(f"{place}: rows, costs, a forest, labelled sentences and a classifier")
