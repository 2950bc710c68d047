"""Search an expression that says how much goes where, prune with its ratios, and compare with uniform ones.

python examples/search.py MODEL TEXT FOLDER
"""

import sys
from pathlib import Path

from secateur import Calibration, Perplexity, Recipe, Search, measure, prune, search_ratios

if __name__ == "__main__":  # further workers start their own Python
    model, text, folder = sys.argv[1:]
    data = Calibration(source=text, samples=4, length=32)
    best = search_ratios(model, Search(ratio=0.6, trials=12, population=4, calibration=data), Path(folder) / "search")
    print(f"{best.candidate}: {best.words}")
    for name, ratios in (("uniform", {}), ("searched", best.allocation.ratios)):
        recipe = Recipe(method="wanda", ratio=0.6, ratios=ratios, calibration=data)
        result = prune(model, recipe, Path(folder) / name)
        found = measure(result.out, Perplexity(source=text, length=32))
        print(f"{name}: perplexity {found['perplexity']:.2f}")
