"""Prune a real language model by three methods and print perplexity before and after.

Uses SmolLM2-135M-Instruct, from a 4-bit file, and bundled Wikipedia articles; about five minutes on two cores.
"""

import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from secateur import Perplexity, Recipe, measure, prune

MODEL, WINDOWS = "bundled:smollm2", Perplexity(length=1024, limit=8)


def main() -> None:
    """Measure the dense model, then each method."""
    console = Console()
    table = Table("model", "weights removed", "seconds", "perplexity")
    dense = measure(MODEL, WINDOWS)
    table.add_row("dense", "0%", "", f"{dense['perplexity']:.2f}")
    room = Path(tempfile.mkdtemp(prefix="secateur-demo-"))
    for method in ("magnitude", "wanda", "sparsegpt"):
        console.print(f"pruning with {method} ...")
        result = prune(MODEL, Recipe(method=method, ratio=0.5), room / method)
        found = measure(result.out, WINDOWS)
        table.add_row(
            method,
            f"{result.sparsity:.1%}",
            f"{result.seconds:.0f}",
            f"{found['perplexity']:.2f}",
        )
    console.print(table)
    console.print(f"{dense['tokens']:,} tokens scored; this loads with AutoModelForCausalLM.from_pretrained:")
    console.print(f"{room}/sparsegpt", soft_wrap=True)


if __name__ == "__main__":
    main()
