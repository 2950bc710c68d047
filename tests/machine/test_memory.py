import ctypes
import subprocess
import sys

import pytest
import torch

from secateur.machine import memory
from secateur.machine.memory import freed_memory_kept, give_back_freed, peak_memory_mb


class Fake:
    def __init__(self):
        self.calls = []

    def mallopt(self, number, value):
        self.calls.append((number, value))

    def malloc_trim(self, _):
        self.calls.append("trimmed")


def test_memory_is_given_back_when_the_outermost_block_ends(monkeypatch):
    libc = Fake()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    with freed_memory_kept():
        with pytest.raises(ValueError, match="x"), freed_memory_kept():
            raise ValueError("x")
        assert "trimmed" not in libc.calls
    assert libc.calls.count("trimmed") == 1 and libc.calls[-2] == (-1, memory._USUAL)
    assert (-3, memory._LARGE) in libc.calls and memory._depth == 0


def test_where_the_allocator_is_another_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with freed_memory_kept():
        assert torch.ones(3).sum() == 3 and memory._depth == 0


def test_peak_grows_with_what_is_held():
    before = peak_memory_mb()
    held = torch.ones(int(before) * 400_000)  # more than all memory used so far
    assert peak_memory_mb() > before + held.nbytes / 3e6


def test_freed_memory_goes_back():
    script = (
        "import torch; from secateur.machine.memory import give_back_freed\n"
        "def rss(): return int(open('/proc/self/statm').read().split()[1])\n"
        "kept = []\n"
        "held = [torch.ones(5000) for _ in range(20000)]; kept = held[::1000]; full = rss()\n"
        "del held; give_back_freed(); assert rss() < 0.7 * full, (rss(), full)"
    )
    if sys.platform == "linux":
        subprocess.run([sys.executable, "-c", script], check=True)
    give_back_freed()
