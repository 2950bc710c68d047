"""Which names are those of networks: told without importing torch."""

import re
from pathlib import Path

__all__ = ["is_network"]

_IMPORT = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*")


def is_network(name: str | Path) -> bool:
    """Whether a name is that of a network rather than of a language model or an encoder.

    timm:NAME, torchvision:NAME, bundled:efficientnet-lite0, an import path such as
    package.module:factory, or a folder that holds network.json.
    """
    text = str(name)
    if text.startswith(("timm:", "torchvision:")) or text == "bundled:efficientnet-lite0":
        return True
    try:
        there, marked = Path(text).exists(), (Path(text) / "network.json").is_file()
    except (OSError, ValueError):  # no path, as it is too long or holds a zero
        there = marked = False
    return marked or (bool(_IMPORT.fullmatch(text)) and not text.startswith(("bundled:", "datasets:")) and not there)
