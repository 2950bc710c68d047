import pytest

from secateur.core.cache import cache_folder, cached, package_file
from secateur.core.errors import InputError


def test_made_once_and_only_when_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    calls = []

    def make(path):
        calls.append(path)
        path.write_text("made")

    first = cached("a", make, of=("content 1",))
    assert first.read_text() == "made" and cached("a", make, of=("content 1",)) == first
    assert first.parent == cache_folder() and len(calls) == 1
    assert cached("a", make, of=("content 2",)) != first and len(calls) == 2

    def fail(path):
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached("c", fail, of=())
    assert sorted(file.name[-2:] for file in tmp_path.iterdir()) == ["-a", "-a"]


def test_package_files():
    assert package_file("torch", "version.py", "a test").is_file()
    with pytest.raises(InputError, match="needs the package 'no-such-package'"):
        package_file("no_such_package", "x", "a test")
    with pytest.raises(InputError, match="holds no nothing"):
        package_file("torch", "nothing", "a test")
