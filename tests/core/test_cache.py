import pytest

from secateur.core.cache import cache_folder, cached, package_file
from secateur.core.errors import InputError


def test_made_once_and_only_when_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    calls = []

    def make(path):
        calls.append(path)
        path.write_text("made")

    assert cached("a/b", make).read_text() == "made" and cached("a/b", make) == cache_folder() / "a/b"
    assert len(calls) == 1

    def fail(path):
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached("c", fail)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_package_files():
    assert package_file("torch", "version.py", "a test").is_file()
    with pytest.raises(InputError, match="needs the package 'no_such_package'"):
        package_file("no_such_package", "x", "a test")
    with pytest.raises(InputError, match="holds no nothing"):
        package_file("torch", "nothing", "a test")
