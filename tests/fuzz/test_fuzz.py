"""The command line over damaged files of every kind: one law, thousands of cases."""

import io
import os
import random
import shutil
import signal
import sys
import traceback
import unicodedata
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path

import pytest

from fuzz.mutations import mutate, mutate_line
from fuzz.subjects import KINDS, PYTHON
from secateur.cli.main import main
from secateur.core.errors import SecateurError
from secateur.terminal.console import plain

CASES = int(os.environ.get("FUZZ_CASES", 150))  # of every kind, where all of them run
FEW = 3
SECONDS = 60
PLANTED = ("planted_door", "antigravity", "this", "idlelib.idle")
DOOR = """
from pathlib import Path
Path(__file__).with_name("opened").touch()
Door = open_door = dict
"""


class Hang(BaseException):
    """A command that does not end."""


class Forbidden(BaseException):
    """A command that starts a process."""


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Where good folders are made once, cases run, and a module lies that nothing may import."""
    import matplotlib.font_manager  # noqa: F401 - it asks the system for fonts in a process, once

    room = tmp_path_factory.mktemp("fuzz")
    for name in ("good", "temporary", "cache", "modules"):
        (room / name).mkdir()
    (room / "modules" / "planted_door.py").write_text(DOOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(room / "cache"))
        patch.setattr("tempfile.tempdir", str(room / "temporary"))
        patch.setenv("SECATEUR_TRACEBACK", "1")
        patch.setattr("secateur.lottery.run.ACCURACIES", (1e-1, 1e-2, 1e-3))
        patch.syspath_prepend(str(room / "modules"))
        yield room


def good(room, kind):
    """The undamaged folder of a kind, made once."""
    folder = room / "good" / kind
    if not folder.exists():
        folder.mkdir()
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            KINDS[kind].make(folder)
    return folder


def tree(folder):
    """What lies in a folder: every path, and what a file holds or where a link leads."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def guarded(folder, words):
    """Run as a user does, in that folder; an alarm and no processes."""

    def forbidden(*args, **kwargs):
        raise Forbidden(str(args)[:200])

    def alarm(*args):
        raise Hang

    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("os.system", "os.execv", "os.execve", "os.posix_spawn", "os.fork", "subprocess.Popen.__init__"):
            patch.setattr(name, forbidden)
        patch.setattr(sys, "argv", ["secateur", *words])
        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        os.chdir(folder)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.chdir(before)


def run(folder, line):
    """Exit code, stdout, stderr; or what came out that is no exit."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings(), guarded(folder, line.split(" ")):
        warnings.simplefilter("ignore")
        try:
            PYTHON.get(line, main)()
        except SystemExit as stop:
            code = stop.code or 0
        except SecateurError as error:  # of a function
            code = 2
            err.write(f"error: {plain(str(error))}\n")
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if "/secateur/" in frame.filename] or frames
            code = f"{type(error).__name__} {str(error)[:200]!r} at {own[-1].filename}:{own[-1].lineno}"
    return code, out.getvalue(), err.getvalue()


def named_output(line):
    """What the command was asked to write; a mutated line may name another place than out."""
    words = line.split(" ")
    return next((value for word, value in pairwise(words) if word == "--out"), "out")


def faults(code, printed, err, line, before, after):
    """Every law that was broken, in words."""
    yield from wrong_end(code, err, line, before, after)
    if "Traceback" in printed + err:
        yield "a traceback"
    strange = {sign for sign in printed + err if unicodedata.category(sign) == "Cc"} - {"\n", "\t"}
    if strange:
        yield f"control characters {strange} printed: {err[:300]!r}"
    drawn = {f"small/{name}.png" for name in ("bills", "use", "frontier")} if "report" in line else ()
    target = named_output(line)
    for name in before.keys() | after.keys():
        own = name == "out" or name.startswith(("out/", "out.partial", "out.search")) or name in drawn
        own = own or (name not in before and (f"{name}/".startswith(f"{target}/") or target.startswith(f"{name}/")))
        if not own and before.get(name, "absent") != after.get(name, "absent"):
            yield f"{name} was changed" if name in before else f"{name} was written"


def wrong_end(code, err, line, before, after):
    """What does not fit the way in which the command ended."""
    if not isinstance(code, int) or code not in (0, 1, 2, 130):
        yield f"exit {code}"
    elif code == 1 and not line.startswith(("verify", "lottery")):
        yield "exit 1, and nothing was to be checked"
    elif code == 2:
        yield from unclear(err)
        yield from left_over(before, after)
    elif code == 0 and any(name.startswith("out.partial") for name in after):
        yield "a finished run left its working folder"


def unclear(err):
    """What is wrong with the sentence of a refusal."""
    if not err.startswith("error: ") or err.count("\n") != 1 or not err.endswith("\n"):
        yield f"no single sentence: {err[:400]!r}"
    if len(err) > 2000:
        yield f"a sentence of {len(err):,} letters"


def left_over(before, after):
    """What an error left that is no finished work, or took away that was."""
    if "out" in after:
        yield "the output is left after an error"
    kept = {name for name in after if name.startswith("out.partial/") and not name.startswith("out.partial/model")}
    work = {name for name in kept if name.endswith((".safetensors", "allocation.json"))}
    if "out.partial" in after and "out.partial" not in before and not (work and "out.partial/plan.json" in kept):
        yield f"left over without finished work: {sorted(kept)}"
    lost = [name for name in before if name.startswith(("out.partial", "out.search")) and name not in after]
    if lost:
        yield f"work was lost: {lost}"


def opened_doors(room):
    """What ran or was left outside the case's folder; closed again."""
    for name in PLANTED:
        if sys.modules.pop(name, None):
            yield f"imported {name}"
    flag = room / "modules" / "opened"
    if flag.exists():
        flag.unlink()
        yield "code of a planted module ran"
    # The first import of a model's class lets torch make a folder of its own there.
    left = [path for path in (room / "temporary").iterdir() if not path.name.startswith("torchinductor")]
    if left:
        fresh(room / "temporary", None)
        yield f"left in the temporary folder: {left}"


def fresh(folder, template):
    """The folder, as the template is; empty without one."""
    shutil.rmtree(folder, ignore_errors=True)
    if template is None:
        folder.mkdir()
    else:
        shutil.copytree(template, folder)


def weights(folder):
    """Bits of the model that a run wrote."""
    kept = (".safetensors", "config.json")
    return {name: data for name, data in tree(folder / "out").items() if name.endswith(kept)}


def undamaged(kind, folder, template):
    """Faults of every command in the good folder; and the weights that the last one writes."""
    found = []
    for line in KINDS[kind].commands:
        fresh(folder, template)
        code, _, err = run(folder, line)
        if code != (2 if KINDS[kind].refused else 0):
            found.append(f"{kind}: {line}\n  in the good folder: {code} {err}")
    return found, weights(folder) if KINDS[kind].resumes else None


def damage(kind, folder, draw, number):
    """A command line, and in words what was damaged: a word of it now and then, or a file."""
    subject = KINDS[kind]
    line = draw.choice(subject.commands)
    if number % 8 == 7 and line not in PYTHON:
        return mutate_line(line, draw)
    files = [path for glob in subject.files for path in sorted(folder.glob(glob)) if path.is_file()]
    path = draw.choice(files)
    return f"{path.relative_to(folder)}: {mutate(path, draw, files)}", line


def try_kind(room, kind, cases):
    """Faults of these cases, each with what repeats it."""
    subject, template, folder = KINDS[kind], good(room, kind), room / "case"
    found, expected = undamaged(kind, folder, template) if subject.resumes or FEW in cases else ([], None)
    for number in cases:
        draw = random.Random(f"{kind} {number}")
        fresh(folder, template)
        way, line = damage(kind, folder, draw, number)
        before = tree(folder)
        code, printed, err = run(folder, line)
        broken = [*faults(code, printed, err, line, before, tree(folder)), *opened_doors(room)]
        if subject.refused and code != 2:
            broken.append("taken for a forest")
        if subject.resumes and code == 0 and weights(folder) != expected:
            broken.append("the resumed run wrote other weights")
        found += [f"{kind} {number}: {line}\n  {way}\n  {fault}" for fault in broken]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_damaged_files_of_every_kind(room, kind):
    found = try_kind(room, kind, range(FEW))
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_damaged_files(room, kind):
    found = try_kind(room, kind, range(FEW, CASES))
    assert not found, f"{len(found)} faults\n" + "\n".join(found)
