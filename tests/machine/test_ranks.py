import json
from pathlib import Path

import torch

from conftest import torchrun
from secateur.calibrate.moments import Moments
from secateur.calibrate.statistic import Gram, InputRMS, gather
from secateur.machine.ranks import agreed, alone, mean, merged, place, processes, shared, tensors_from, wait

TALK = """
import json, sys
import torch
from secateur.calibrate.moments import Moments
from secateur.calibrate.statistic import Gram, InputRMS, gather
from secateur.machine.ranks import agreed, mean, merged, place, processes, shared, tensors_from, wait

x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
with processes() as (rank, count):
    assert place() == (rank, count)
    with processes() as again:
        assert again == (rank, count)
    parts = gather((Gram, InputRMS, Moments), x[rank::count]).parts
    found = {kind.__name__: merged(part).value.tolist() for kind, part in parts.items()}
    wait()
    sent = {"half": torch.full((2, 3), 1.5 + rank, dtype=torch.bfloat16), "keep": torch.ones(3 - rank) > rank,
            "number": torch.tensor(0.5), "nothing": None, "empty": torch.zeros(0, 4)}
    second = tensors_from(1, sent)
    print(json.dumps({
        "rank": rank, "found": found, "told": shared({"a": [rank, "\\u00e9"]} if rank == 0 else None),
        "mean": mean(float(rank)), "least": agreed(3 + rank), "half": second["half"].tolist(),
        "keep": second["keep"].tolist(), "number": float(second["number"]), "nothing": second["nothing"],
        "empty": list(second["empty"].shape),
    }), file=open(sys.argv[1] + f"/{rank}.json", "w"))
"""


def test_processes_hold_the_same_and_hear_each_other(tmp_path):
    script = tmp_path / "talk.py"
    script.write_text(TALK)
    done = torchrun(str(script), str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (first.pop("rank"), second.pop("rank")) == (0, 1)
    assert first == second  # the same bits
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    for kind, part in gather((Gram, InputRMS, Moments), x).parts.items():
        assert torch.allclose(torch.tensor(first["found"][kind.__name__]), part.value, rtol=1e-5, atol=1e-6)
    assert first["told"] == {"a": [0, "é"]} and first["mean"] == 0.5 and first["least"] == 3
    assert first["half"] == [[2.5] * 3] * 2 and first["keep"] == [False] * 2 and first["number"] == 0.5
    assert first["nothing"] is None and first["empty"] == [0, 4]


def test_a_lone_process_tells_nobody(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with processes() as found:
        assert found == place() == (0, 1)
    gram = gather((Gram,), torch.ones(2, 3))[Gram]
    tensors = {"a": torch.ones(2), "b": None}
    wait()
    assert merged(gram) is gram and shared({"a": 1}) == {"a": 1} and mean(2.5) == 2.5 and agreed(4) == 4
    assert tensors_from(0, tensors) == tensors


def test_alone_a_process_of_several_asks_nobody(monkeypatch):
    monkeypatch.setattr("secateur.machine.ranks.dist.is_initialized", lambda: True)
    monkeypatch.setattr("secateur.machine.ranks.dist.get_rank", lambda: 1)
    monkeypatch.setattr("secateur.machine.ranks.dist.get_world_size", lambda: 2)
    assert place() == (1, 2)
    with alone():
        assert place() == (0, 1) and shared({"a": 1}) == {"a": 1}
    assert place() == (1, 2)


def test_statistics_that_are_told_have_no_hidden_parts():
    """What is sent are tensors and whole numbers: a statistic that keeps sums otherwise would lose them."""
    for kind in (Gram, InputRMS, Moments):
        part = kind()
        part.update(torch.ones(2, 3))
        kept = {name for name, value in vars(part).items() if isinstance(value, torch.Tensor | int)}
        assert {name for name in vars(part) if name not in kept} <= {"_value", "_factors"}


DIES = """
import os, sys, time
from secateur.core.errors import SecateurError
from secateur.machine.ranks import processes, shared
with processes() as (rank, _):
    if rank == 1:
        os._exit(3)
    try:
        for _ in range(1000):
            from secateur.machine.ranks import mean
            mean(1.0)
    except SecateurError as error:
        print(error, file=open(sys.argv[1], "w"))
"""


def test_a_process_that_dies_ends_the_others_with_one_sentence(tmp_path):
    script = tmp_path / "dies.py"
    script.write_text(DIES)
    done = torchrun(str(script), str(tmp_path / "said"))
    assert done.returncode != 0
    said = Path(tmp_path / "said")
    if said.exists():  # else the launcher ended it first
        assert "rerun the same command with --resume" in said.read_text()
