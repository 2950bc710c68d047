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
from pathlib import Path

import pytest

from fuzz.mutations import mutate, mutate_line
from fuzz.subjects import KINDS, PYTHON
from secateur.cli.console import plain
from secateur.cli.main import main
from secateur.core.errors import SecateurError

CASES = int(os.environ.get("FUZZ_CASES", 150))  # of every kind, where all of them run
FEW = 4
SECONDS = 60
PLANTED = ("planted_door", "antigravity", "this", "idlelib.idle")
DOOR = "from pathlib import Path\nPath(__file__).with_name('opened').touch()\ndef open_door(*args): return 0\nDoor = dict\n"


class Hang(BaseException):
    """A command that does not end."""


class Forbidden(BaseException):
    """A command that starts a process."""


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Where good folders are made once, cases run, and a module lies that nothing may import."""

    room = tmp_path_factory.mktemp("fuzz")
    for name in ("good", "temporary", "cache", "modules"):
        (room / name).mkdir()
    (room / "modules" / "planted_door.py").write_text(DOOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(room / "cache"))
        patch.setattr("tempfile.tempdir", str(room / "temporary"))
        patch.setenv("SECATEUR_TRACEBACK", "1")
        patch.setattr("secateur.theory.session.ACCURACIES", (1e-1, 1e-2, 1e-3))
        patch.syspath_prepend(str(room / "modules"))
        yield room


def good(room, kind):
    """The undamaged folder of a kind; every command is run in it once, which also imports what it needs."""
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


def faults(code, printed, err, line, before, after, room):
    """Every law that was broken, in words."""
    if not isinstance(code, int) or code not in (0, 1, 2, 130):
        yield f"exit {code}"
        return
    if code == 1 and not line.startswith(("verify", "lottery")):
        yield "exit 1"
    if "Traceback" in printed + err:
        yield "a traceback"
    if code == 2 and (not err.startswith("error: ") or err.count("\n") != 1 or not err.endswith("\n")):
        yield f"no single sentence: {err[:400]!r}"
    if len(err) > 4000:
        yield f"a sentence of {len(err):,} letters: {err[:300]!r}"
    strange = {letter for letter in printed + err if unicodedata.category(letter) == "Cc"} - {"\n", "\t"}
    if strange:
        yield f"control characters {strange} printed: {err[:300]!r}"
    for name in PLANTED:
        if name in sys.modules:
            del sys.modules[name]
            yield f"imported {name}"
    left = [path.name for path in (room / "temporary").iterdir()]
    if left:
        yield f"left in the temporary folder: {left}"
        shutil.rmtree(room / "temporary")
        (room / "temporary").mkdir()
    yield from misplaced(code, line, before, after)


def misplaced(code, line, before, after):
    """What was written, changed or left over where it should not be."""
    drawn = ("small/bills.png", "small/use.png", "small/frontier.png") if "report" in line else ()

    def own(name):  # what a command may write
        return name == "out" or name.startswith(("out/", "out.partial", "out.search")) or name in drawn

    for name in before.keys() | after.keys():
        if not own(name) and before.get(name, "absent") != after.get(name, "absent"):
            yield f"{name} was changed" if name in before else f"{name} was written"
    if code == 2:
        if "out" in after:
            yield "the output is left after an error"
        kept = [name for name in after if name.startswith("out.partial")]
        if kept and not any(name.startswith("out.partial") for name in before):
            work = [
                name for name in kept if name.endswith((".safetensors", "allocation.json")) and "/model/" not in name
            ]
            if not work or "out.partial/plan.json" not in after:
                yield f"left over without finished work: {kept}"
        lost = [name for name in before if name.startswith("out.") and name not in after]
        if lost:
            yield f"work was lost: {lost}"
    if code == 0 and any(name.startswith("out.partial") for name in after):
        yield "a finished run left its working folder"


def weights(folder):
    return {
        name: data
        for name, data in tree(folder / "out").items()
        if name.endswith("safetensors") or name == "config.json"
    }


def fresh(folder, template):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)


def try_kind(room, kind, cases):
    """Faults of so many cases, each with what repeats it."""
    subject, template = KINDS[kind], good(room, kind)
    expected = None
    found = []
    folder = room / "case"
    for line in subject.commands if min(cases) == 0 else ():
        fresh(folder, template)
        code, _, err = run(folder, line)
        if code != (2 if subject.refused else 0):
            found.append(f"{kind}: {line}\n  the undamaged folder is refused: {code} {err}")
    for number in cases:
        draw = random.Random(f"{kind} {number}")
        fresh(folder, template)
        line = draw.choice(subject.commands)
        if subject.resumes and expected is None:
            code, _, err = run(folder, line)
            assert code == 0, err
            expected = weights(folder)
            fresh(folder, template)
        files = [path for glob in subject.files for path in sorted(folder.glob(glob)) if path.is_file()]
        way = "undamaged"
        if number % 8 == 7 and line not in PYTHON:
            way, line = mutate_line(line, draw)
        elif number:
            path = draw.choice(files)
            way = f"{path.relative_to(folder)}: {mutate(path, draw, files)}"
        before = tree(folder)
        code, printed, err = run(folder, line)
        broken = list(faults(code, printed, err, line, before, tree(folder), room))
        if subject.refused and code != 2:
            broken.append("taken for a forest")
        if subject.resumes and code == 0 and weights(folder) != expected:
            broken.append("the resumed run wrote other weights")
        if (room / "modules" / "opened").exists():
            (room / "modules" / "opened").unlink()
            broken.append("code of a planted module ran")
        found += [f"{kind} {number}: {line}\n  {way}\n  {fault}" for fault in broken]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_damaged_files_of_every_kind(room, kind):
    found = try_kind(room, kind, range(1, FEW))
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_damaged_files(room, kind):
    found = try_kind(room, kind, range(CASES))
    assert not found, f"{len(found)} faults\n" + "\n".join(found)
