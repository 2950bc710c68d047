"""Kills at every call that changes the disk: what is run again gives the same bits, and nothing is left over."""

import contextlib
import itertools
import json
import os
import pathlib
import random
import shutil
import sys

import pytest
import torch
from optuna.storages.journal import JournalFileSymlinkLock

from fuzz.subjects import PRUNE, RECOVER, SEARCH, masked, secateur
from secateur.cli.main import main

KILLED = 9
COMMANDS = {
    "wanda": f"{PRUNE} --method wanda",
    "sparsegpt of 2:4": f"{PRUNE} --method sparsegpt --pattern 2:4",
    "magnitude": f"{PRUNE} --method magnitude",
    "units": f"{PRUNE} --method slimgpt --round-to 1",
    "owl": f"{PRUNE} --method sparsegpt --allocator owl",
    "taylor": f"{PRUNE} --method taylor --round-to 1",
    "blocks": f"{PRUNE} --method shortgpt",
    "recover": RECOVER,
    "search": SEARCH,
}
SAVED = (".safetensors", ".json")
OWN_TIME = ("result.json", "recover.json", "history.json")  # say when and how long


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A model and its texts, made once."""
    folder = tmp_path_factory.mktemp("chaos") / "good"
    folder.mkdir()
    masked(folder)
    return folder


def half_saved(original, *args, **kwargs):
    """A file of which only a half was written."""
    original(*args, **kwargs)
    path = next(pathlib.Path(part) for part in args if isinstance(part, str | os.PathLike))
    os.truncate(path, path.stat().st_size // 2)


def half_copied(original, source, target, **kwargs):
    """A copy of which only the beginning was written."""
    with open(target, "wb") as file:  # noqa: PTH123 - Path.open is watched
        file.write(pathlib.Path(source).read_bytes()[:9])


def opened(original, path, mode="r", *args, **kwargs):
    """A file that was opened to be written, and is empty."""
    original(path, mode, *args, **kwargs).close()


def not_done(original, *args, **kwargs):
    """Nothing of the call."""


def writes(path, mode="r", *args, **kwargs):
    return "w" in mode


DISK = [
    *((os, name, not_done, None) for name in ("replace", "rename", "mkdir", "rmdir", "unlink", "truncate")),
    (pathlib.Path, "touch", not_done, None),
    (pathlib.Path, "write_text", half_saved, None),
    (pathlib.Path, "open", opened, writes),
    (shutil, "copyfile", half_copied, None),
    (sys.modules["safetensors.torch"], "serialize_file", half_saved, None),
]


def armed(at):
    """From now on the process ends in its at-th call that changes the disk."""
    calls = itertools.count(1)

    def arm(owner, name, half, counts):
        original = getattr(owner, name)

        def called(*args, **kwargs):
            if (counts is None or counts(*args, **kwargs)) and next(calls) == at:
                half(original, *args, **kwargs)
                os._exit(KILLED)
            return original(*args, **kwargs)

        setattr(owner, name, called)

    for entry in DISK:
        arm(*entry)


def run(folder, line, at=0):
    """Exit code and what was said by a command in a process of its own, killed in its at-th call."""
    log = folder.parent / "log"
    child = os.fork()
    if not child:
        os._exit(in_child(folder, line, log, at))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), log.read_text()


def in_child(folder, line, log, at):
    os.chdir(folder)
    torch.set_num_threads(1)
    JournalFileSymlinkLock.__init__.__defaults__ = (3,)  # seconds until the lock of a killed process is broken
    sys.argv = ["secateur", *line.split()]
    with log.open("w") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if at:
                armed(at)
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        except BaseException as error:
            said.write(f"{type(error).__name__}: {error}")
    return 77


def result(folder):
    """Bits of what was written, without times."""
    out = folder / "out"
    files = {"out": out} if out.is_file() else {file.relative_to(out).as_posix(): file for file in out.rglob("*")}
    return {
        name: file.read_bytes()
        for name, file in files.items()
        if file.is_file() and (name == "out" or (file.suffix in SAVED and name not in OWN_TIME))
    }


def again(folder, line):
    """Run the command again as a user does: with --resume where there is one."""
    code, said = run(folder, line if line.startswith("search") else f"{line} --resume")
    if code == 2 and "already exists" in said:  # killed when all was done but the tidying
        code = 0
    return code, said


def check_kills(folder, line, template, expected, kills):
    """Kill a fresh run at the first of these calls, what goes on at the next, and so on; True if none was killed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    codes = []
    for number, at in enumerate(kills):
        resumed = " --resume" if number and not line.startswith("search") else ""
        codes.append(run(folder, f"{line}{resumed}", at)[0])
    assert set(codes) <= {0, 2, KILLED}, (kills, codes)
    code, said = (0, "") if codes == [0] else again(folder, line)
    assert code == 0, (kills, said)
    assert result(folder) == expected, kills
    left = {path.name for path in folder.iterdir()} - {path.name for path in template.iterdir()}
    assert left <= {"out", "out.search"}, (kills, left)
    return codes == [0]


def undisturbed(folder, line, template):
    shutil.copytree(template, folder)
    code, said = run(folder, line)
    assert code == 0, said
    return result(folder)


@pytest.mark.parametrize("name", ["wanda", "owl", "blocks"])
def test_a_few_kills(name, template, tmp_path):
    line = COMMANDS[name]
    expected = undisturbed(tmp_path / "whole", line, template)
    for at in random.Random(name).sample(range(1, 40), 4):
        check_kills(tmp_path / "case", line, template, expected, [at])


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_every_call_that_changes_the_disk(name, template, tmp_path):
    line = COMMANDS[name]
    expected = undisturbed(tmp_path / "whole", line, template)
    every = itertools.count(1, 5 if name == "search" else 1)  # a kill that leaves Optuna's lock costs seconds
    ended = next(at for at in every if check_kills(tmp_path / "case", line, template, expected, [at]))
    assert ended > 10
    draw = random.Random(name)
    for _ in range(2 if name == "search" else 20):
        kills = [draw.randrange(1, ended) for _ in range(draw.choice((2, 3)))]
        check_kills(tmp_path / "case", line, template, expected, kills)


def test_commands_are_those_that_work(template, tmp_path):
    folder = tmp_path / "case"
    shutil.copytree(template, folder)
    secateur(folder, COMMANDS["wanda"])
    assert json.loads((folder / "out" / "result.json").read_text())["resumed_blocks"] == 0
