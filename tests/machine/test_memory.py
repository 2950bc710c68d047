import ctypes

import pytest
import torch

from secateur.machine import memory
from secateur.machine.memory import freed_memory_kept


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
