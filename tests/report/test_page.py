import json
import re
import shutil

import pytest

from secateur.core.errors import InputError
from secateur.report.page import report_page, write_report

RUN = {
    "name": "one </script><b>",
    "folder": "/*style*/",
    "kind": "pruning",
    "model": "m",
    "pairs": [{"label": "size", "before": 2.0, "after": 1.0, "unit": "MB", "better": "lower"}],
    "facts": [{"label": "time", "value": 1.5, "unit": "s"}],
    "layers": [
        {"name": "a.0.q", "block": "a.0", "kind": "q", "ratio": 0.5, "sparsity": 0.5, "loss": 1.0, "weights": 4}
    ],
    "heads": [{"name": "a.0", "kind": "heads", "kept": [0, 2], "count": 3}],
    "curves": [{"title": "c", "x": "x", "y": "y", "log": False, "lines": [{"name": "l", "points": [[0, 1], [1, 2]]}]}],
    "bars": [{"title": "b", "unit": "u", "rows": [{"name": "r", "value": 3}]}],
    "recipe": "method: wanda\n",
    "versions": {"torch": "2"},
}


def test_the_page_holds_the_runs_as_data_and_asks_for_nothing():
    page = report_page([RUN, RUN])
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["runs"] == [RUN, RUN]
    assert "</script><b>" not in page and page.count("<script") == 2
    assert not re.search(r'(src|href)="(?!#|data:)', page) and "http" not in page.replace(
        "http://www.w3.org/2000/svg", ""
    ).replace("http-equiv", "")
    assert "innerHTML" not in page and "default-src 'none'" in page


def test_what_exists_is_kept(tmp_path):
    (tmp_path / "x.html").write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        write_report([], tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text() == "mine"


@pytest.fixture
def engine(tmp_path):
    """A Chromium, with a page of two runs to open in it; without one the test is skipped."""
    sync = pytest.importorskip("playwright.sync_api")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium")
    (tmp_path / "page.html").write_text(report_page([RUN, {**RUN, "name": "two", "pairs": []}]))
    with sync.sync_playwright() as play:
        engine = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield engine
        engine.close()


@pytest.mark.parametrize("wide", [390, 1280])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_is_accessible(scheme, wide, engine, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = engine.new_page(viewport={"width": wide, "height": 800}, color_scheme=scheme)
    page.goto(f"file://{tmp_path}/page.html")
    found = axe.Axe().run(page).response
    assert len(found["passes"]) > 10  # it did look
    assert [(rule["id"], rule["nodes"][0]["target"]) for rule in found["violations"]] == []


def test_a_browser_draws_everything_without_an_error(engine, tmp_path):
    said = []
    page = engine.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto(f"file://{tmp_path}/page.html")
    assert page.locator("section.run").count() == 2 and page.locator("svg rect").count() >= 8
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    page.locator("svg rect[tabindex='0']").first.focus()
    assert page.locator("#tip").is_visible()
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="loss").first.click()
    page.get_by_role("button", name="Dark or light").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert not said
