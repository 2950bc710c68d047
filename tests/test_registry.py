import importlib
import sys

import pytest

from secateur.core.errors import InputError, RecipeError
from secateur.registry import Row, Table, check_name, nearest


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs an empty package with some entry points."""

    def install(name, entries, body="def make(): pass\nnumber = 5\n"):
        room = tmp_path / name
        about = room / f"{name}-1.2.dist-info"
        about.mkdir(parents=True)
        (room / f"{name}.py").write_text(body)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (about / "entry_points.txt").write_text(entries)
        monkeypatch.syspath_prepend(room)
        importlib.invalidate_caches()

    yield install
    for name in ("one_package", "two_package"):
        sys.modules.pop(name, None)


def table(**settings):
    rows = {"path": Row("pathlib:Path", "a path"), "five": 5}
    return Table("thing", rows, group="secateur.things", **settings)


def test_rows_are_imported_when_they_are_looked_up():
    from pathlib import Path

    assert table()["path"] is Path and table()["five"] == 5 and table().find("path") is Path
    assert list(table()) == ["path", "five"] and len(table()) == 2 and "five" in table() and 5 not in table()
    assert table().lines() == {"path": "a path", "five": ""}
    with pytest.raises(RecipeError, match="thing 'pth' is unknown: did you mean 'path'"):
        table().find("pth")
    with pytest.raises(KeyError):
        table()["pth"]


def test_installed_packages_add_rows_that_are_listed_without_importing_them(package):
    package("one_package", "[secateur.things]\nmine = one_package:make\n")
    assert list(table()) == ["path", "five", "mine"] and "mine" in table() and len(table()) == 3
    assert table().lines()["mine"] == "of package one_package 1.2" and "one_package" not in sys.modules
    with pytest.raises(RecipeError, match="did you mean 'mine'"):
        table().find("mind")
    assert table().find("mine").__name__ == "make" and "one_package" in sys.modules


@pytest.mark.parametrize(
    ("entry", "settings", "message"),
    [
        ("path = one_package:make", {}, r"'path' of package one_package 1.2 .*secateur's own \(pathlib:Path\)"),
        ("five = one_package:make", {}, r"secateur's own \(a row\): uninstall the package, or rename"),
        ("six = one_package:make", {"taken": {"six"}}, "has the same name as secateur's own"),
    ],
)
def test_a_taken_name_is_refused_and_both_are_named(entry, settings, message, package):
    package("one_package", f"[secateur.things]\n{entry}\n")
    with pytest.raises(InputError, match=message):
        list(table(**settings))


def test_two_packages_with_one_name_are_both_named(package):
    package("one_package", "[secateur.things]\nmine = one_package:make\n")
    package("two_package", "[secateur.things]\nmine = two_package:make\n")
    with pytest.raises(InputError, match="(?=.*one_package 1.2 .one_package:make)(?=.*two_package 1.2 .two_package)"):
        table().find("path")


@pytest.mark.parametrize(
    ("place", "settings", "message"),
    [
        ("one_package:gone", {}, "cannot be imported: AttributeError"),
        ("one_package:number", {}, "should be something to call, found int"),
        ("one_package:make", {"wanted": int}, "should be a int, found function"),
    ],
)
def test_an_unusable_object_is_refused_by_package(place, settings, message, package):
    package("one_package", f"[secateur.things]\nmine = {place}\n")
    with pytest.raises(InputError, match=r"thing 'mine' of package one_package 1.2 .*" + message):
        table(**settings).find("mine")


def test_a_name_is_known_or_the_nearest_is_told():
    check_name("dtype", "auto", ["auto"])
    with pytest.raises(RecipeError, match="dtype 'x' is unknown: known are auto, float32"):
        check_name("dtype", "x", ["float32", "auto"])
    assert nearest("wnda", ["wanda", "ria"]) == ": did you mean 'wanda'?"
