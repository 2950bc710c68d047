"""Pages of the documentation say what the command line takes, and their links lead somewhere."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import secateur
from secateur.cli.main import app

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:^|[`&;] ?|\()((?:secateur|torchrun[^`\n]*-m secateur) [^`\n]*)", re.MULTILINE)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def name(path):
    return path.relative_to(ROOT).as_posix()


def commands(page):
    """The commands of a page, comments and what follows && left out, lines that end in a backslash joined."""
    text = page.read_text().replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines()]
    found = [match for line in lines for match in COMMAND.findall(line)]
    return [re.split(r"\s#|&&|;", line.split("-m secateur")[-1].removeprefix("secateur"))[0] for line in found]


def words(line):
    try:
        return shlex.split(line)
    except ValueError:  # an apostrophe of a sentence
        return line.split()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_and_option_of_a_page_exists(page):
    for line in commands(page):
        command, rest = get_command(app), words(line)
        while rest and hasattr(command, "commands") and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        known = options | {"-h", "--help", "--version", "-v", "-q", "--install-completion", "--log-to", "--tensorboard"}
        asked = [word.split("=")[0].strip("[]),.") for word in rest if re.match(r"\[?--?[a-z]", word)]
        assert not [option for option in asked if option not in known], f"{name(page)}: secateur{line}"


def anchors(page):
    """The anchors of a page's headings, as Markdown renderers make them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", head).lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in (one or other for one, other in LINK.findall(text)):
        if link.startswith(("http", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name(page)}: {link} names no heading"


def test_the_readme_names_commands_extras_and_make_targets_that_exist():
    text = (ROOT / "README.md").read_text()
    assert len(commands(ROOT / "README.md")) >= 5
    targets = set(re.findall(r"^([a-z\-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= set(re.findall(r"`make ([a-z\-]+)`", text)) <= targets
    project = (ROOT / "pyproject.toml").read_text().split("optional-dependencies]")[1].split("[project.scripts")[0]
    known = set(re.findall(r"^(\w+) = \[", project, re.MULTILINE))
    rows = re.findall(r"^\| (`[\w`, ]+`) \|", text, re.MULTILINE)
    named = {extra for row in rows for extra in re.findall(r"`(\w+)`", row)}
    assert known - {"browser", "demo", "dev", "docs"} <= named & known


def test_pages_made_from_the_code_are_as_the_code_says():
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| .*\|$", (ROOT / "docs" / "reference" / "recipe.md").read_text(), re.MULTILINE)
    assert len(rows) > 50 and all(row.split(" | ")[-1].strip(" |") for row in rows)


def test_every_page_stands_in_the_navigation_and_every_figure_has_a_source():
    listed = set(re.findall(r": ([\w/\-]+\.md)$|- ([\w/\-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert {one or other for one, other in listed} == pages
    drawn = (ROOT / "benchmarks" / "figures.py").read_text()
    assert all(f'"{path.stem}": ' in drawn for path in (ROOT / "docs" / "figures").iterdir())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_python_block_of_a_page_parses(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert all(ast.parse(block).body for block in blocks)


def test_the_score_of_the_page_for_your_own_parts_prunes(saved, text, tmp_path):
    block = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "adapt.md").read_text(), re.DOTALL)[1]
    room = {}
    exec(block, room)
    result = secateur.prune(saved("llama"), room["recipe"], tmp_path / "out")
    assert result.sparsity == pytest.approx(0.5, abs=0.01)
