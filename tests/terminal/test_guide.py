import re

from typer.main import get_command

from conftest import run
from secateur.cli.main import app
from secateur.terminal.guide import GUIDE


def test_the_bare_command_prints_a_guide_of_one_screen(monkeypatch, capsys):
    assert run(monkeypatch, capsys) == (0, GUIDE, "")
    assert len(GUIDE.splitlines()) <= 24


def test_every_command_and_option_of_the_guide_exists():
    commands = get_command(app).commands
    named = re.findall(r"secateur ([a-z]+)((?: [^ ]+)*)", GUIDE)
    assert (
        {"prune", "verify", "evaluate", "bench", "export", "recover"}
        <= {name for name, _ in named}
        <= {*commands, "prunes"}
    )
    for name, rest in named:
        known = {option for each in getattr(commands.get(name), "params", []) for option in each.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known
