"""The bundled corpus: Wikipedia articles that gensim ships, split by article."""

import bz2
import json
import re
from pathlib import Path
from typing import Literal

from secateur.core.cache import cached, file_digest, package_file

__all__ = ["Split", "bundled_articles", "bundled_text"]

Split = Literal["calibration", "evaluation"]
_DUMP = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


def bundled_text(split: Split) -> str:
    """Wikipedia articles (CC BY-SA) shipped by gensim: even ones calibrate, odd ones evaluate."""
    offset = 0 if split == "calibration" else 1
    return "\n\n".join(text for _, text in bundled_articles()[offset::2])


def bundled_articles() -> list[list[str]]:
    """Title and text of every article. Raises InputError without gensim."""
    dump = package_file("gensim", _DUMP, "the bundled text")
    path = cached("wikipedia.json", lambda target: _extract(dump, target), of=(file_digest(dump), "1"))
    articles: list[list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return articles


def _extract(dump: Path, target: Path) -> None:
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki  # slow to import, only needed once

    with bz2.open(dump) as file:
        pages = [(title, filter_wiki(text)) for title, text, _ in extract_pages(file, ("0",))]
    articles = [
        [title, re.sub(r"\n{3,}", "\n\n", text.replace("'''", "").replace("''", "")).strip()] for title, text in pages
    ]
    target.write_text(json.dumps([article for article in articles if len(article[1]) > 2000]), encoding="utf-8")
