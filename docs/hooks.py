"""Links that leave docs/, such as ../examples/network.py, lead to the repository on the site."""

import re
from typing import Any

_OUTSIDE = re.compile(r"\]\((?:\.\./)+((?:examples|recipes|benchmarks/\w+\.py|src|[A-Z]+\.md)[^)]*)\)")


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Replace such links in a page."""
    return _OUTSIDE.sub(rf"]({config['extra']['source']}/blob/main/\1)", markdown)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Take the script that search from a file needs from the site itself, so that no page asks another server."""
    own = page.url.count("/") * "../" + "javascripts/search-from-file.js"
    return output.replace("https://unpkg.com/iframe-worker/shim", own)
