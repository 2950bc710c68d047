import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur.calibrate.data import Calibration
from secateur.core.errors import CalibrationError, InputError, RatioError, StorageError
from secateur.search import study
from secateur.search.study import Search, search_ratios
from secateur.search.trial import Trials
from secateur.storage.source import Source, load_tokenizer

SMALL = Search(ratio=0.5, trials=12, population=4, eval_samples=2)
COMMAND = """
import sys
from secateur.calibrate.data import Calibration
from secateur.search.study import Search, search_ratios
from pathlib import Path
data = Calibration(source=sys.argv[2], samples=4, length=16)
settings = Search(ratio=0.5, trials=12, population=4, eval_samples=2, calibration=data)
search_ratios(sys.argv[1], settings, Path(sys.argv[3]))
"""


@pytest.fixture
def settings(text):
    return replace(SMALL, calibration=Calibration(source=str(text), samples=4, length=16))


def told(folder):
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
    try:
        study = optuna.load_study(study_name=folder.name, storage=optuna.storages.JournalStorage(backend))
    except KeyError:  # the file is there before the study is
        return []
    return study.get_trials()


@pytest.mark.parametrize("space", ["expressions", "ratios"])
def test_the_best_of_the_history_wins_and_meets_the_target(space, settings, saved, tmp_path):
    found = search_ratios(saved("llama"), replace(settings, space=space), tmp_path / "s")
    assert len(found.history) == 12 and found.fitness == min(value for value, _ in found.history)
    assert (found.fitness, found.candidate) in found.history
    assert found.allocation.mean({name: 1 for name in found.allocation.ratios}) == pytest.approx(0.5, abs=1e-6)
    if space == "ratios":
        assert found.history[0][0] == pytest.approx(found.uniform, abs=1e-6)


def test_candidates_are_judged_on_other_tokens_than_the_calibrations(settings, saved, tmp_path, monkeypatch):
    seen = {}

    class Noted(Trials):
        def __init__(self, source, folder, ids, batch):
            seen["judged"] = ids
            super().__init__(source, folder, ids, batch)

    prepare = study.prepare
    monkeypatch.setattr(study, "Trials", Noted)
    monkeypatch.setattr(study, "prepare", lambda *args: (seen.update(gathered=args[2]), prepare(*args))[1])
    save_file({"ids": torch.arange(3, 99)}, tmp_path / "ids.safetensors")  # every token says where it stands
    data = Calibration(source=str(tmp_path / "ids.safetensors"), samples=8, length=12, seed=1)
    plan = replace(settings, calibration=data, eval_samples=3, trials=2)
    search_ratios(saved("llama"), plan, tmp_path / "s")
    assert seen["judged"].shape == (3, 12) and seen["gathered"].shape == (8, 12)
    assert not set(seen["judged"].flatten().tolist()) & set(seen["gathered"].flatten().tolist())
    with pytest.raises(CalibrationError, match="96 tokens, too few"):
        search_ratios(saved("llama"), replace(plan, eval_samples=8), tmp_path / "t")


def test_two_workers_find_the_same_and_share_the_work(settings, saved, tmp_path):
    one = search_ratios(saved("llama"), settings, tmp_path / "one")
    two = search_ratios(saved("llama"), replace(settings, workers=2), tmp_path / "two")
    assert [words for _, words in one.history] == [words for _, words in two.history]
    assert [value for value, _ in one.history] == pytest.approx([value for value, _ in two.history], abs=1e-5)
    assert one.candidate == two.candidate
    trials = told(tmp_path / "two")
    claims = [trial.number for trial in trials if trial.number < 12]
    assert sorted(claims) == list(range(12))  # nothing evaluated twice
    assert all(trial.state.is_finished() for trial in trials[:12])


def test_a_killed_search_goes_on_to_the_same_winner(settings, saved, text, tmp_path):
    whole = search_ratios(saved("llama"), settings, tmp_path / "whole")
    folder = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", COMMAND, str(saved("llama")), str(text), str(folder)])
    while child.poll() is None and not (
        (folder / "study.log").exists() and sum(trial.state.is_finished() for trial in told(folder)) >= 3
    ):
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = sum(trial.state.is_finished() for trial in told(folder))
    assert done < 12, "the search was over before it was killed"
    again = search_ratios(saved("llama"), settings, folder)
    assert again == whole


def test_a_search_may_be_made_longer_but_not_changed(settings, saved, tmp_path):
    short = search_ratios(saved("llama"), replace(settings, trials=6), tmp_path / "s")
    longer = search_ratios(saved("llama"), settings, tmp_path / "s")
    assert longer.history[:4] == short.history[:4] and len(longer.history) == 12
    with pytest.raises(InputError, match="begun with ratio 0.5, now it is 0.6"):
        search_ratios(saved("llama"), replace(settings, ratio=0.6), tmp_path / "s")


def test_the_lock_that_a_killed_search_leaves_can_be_told_from_a_live_one(settings, saved, tmp_path, monkeypatch):
    """Optuna breaks a lock whose link it can follow and nobody touches; else it waits for ever."""
    led = []
    link = os.symlink

    def noted(target, name):
        link(target, name)
        led.append(Path(name).exists())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "symlink", noted)
    few = replace(settings, trials=1)
    search_ratios(saved("llama"), few, Path("s"))
    search_ratios(saved("llama"), replace(few, storage="journal:other.log"), Path("t"))
    assert len(led) > 4 and all(led)


def test_sqlite_keeps_a_study_too(settings, saved, tmp_path):
    stored = search_ratios(saved("llama"), replace(settings, storage=f"sqlite:///{tmp_path}/s.db"), tmp_path / "s")
    assert stored == search_ratios(saved("llama"), settings, tmp_path / "t") and (tmp_path / "s.db").exists()


def test_ratios_come_near_the_best_of_a_grid(settings, saved, ids, text, tmp_path):
    found = search_ratios(saved("llama"), replace(settings, space="ratios", trials=64, population=8), tmp_path / "s")
    trials = Trials(Source(saved("llama")), tmp_path / "s" / "ranks", _fitness_ids(saved("llama"), settings), 128)
    names = list(trials.problem.blocks)
    grid = [0.02 * step for step in range(-5, 6)]
    best = min(trials.fitness(dict(zip(names, (0.5 + move, 0.5 - move), strict=True))) for move in grid)
    assert found.fitness <= best * 1.02


def _fitness_ids(model, settings):

    return settings.calibration.draw_apart(load_tokenizer(Source(model)), settings.eval_samples)[1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"space": "trees"}, "should be expressions or ratios"),
        ({"trials": 0}, "at least 1"),
        ({"ratio": 1.5}, "ratio"),
        ({"storage": "nosuch://x"}, "cannot be opened"),
    ],
)
def test_bad_settings_are_refused(change, message, settings, saved, tmp_path):
    with pytest.raises((InputError, RatioError), match=message):
        search_ratios(saved("llama"), replace(settings, **change), tmp_path / "s")


def test_a_folder_that_cannot_be_made_is_one_sentence(settings, saved, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="cannot be written: .*Not a directory.*name another place"):
        search_ratios(saved("llama"), settings, tmp_path / "file" / "s")


def test_helpers_end_with_the_search_that_is_interrupted(settings, saved, tmp_path):
    def stop(done, total):
        if total == settings.trials:  # after the blocks were read
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_ratios(saved("llama"), replace(settings, workers=2), tmp_path / "s", progress=stop)
    assert not multiprocessing.active_children()
    assert search_ratios(saved("llama"), settings, tmp_path / "s").fitness > 0


def test_a_study_knows_its_model_and_text_by_content(settings, saved, text, tmp_path):
    shutil.copytree(saved("llama"), tmp_path / "m")
    short = replace(settings, trials=4)
    search_ratios(tmp_path / "m", short, tmp_path / "s")
    (tmp_path / "m").rename(tmp_path / "moved")
    search_ratios(tmp_path / "moved", short, tmp_path / "s")
    weights = load_file(tmp_path / "moved" / "model.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, tmp_path / "moved" / "model.safetensors")
    with pytest.raises(InputError, match="was begun with model"):
        search_ratios(tmp_path / "moved", short, tmp_path / "s")
    rank = sorted((tmp_path / "s" / "ranks").glob("*.safetensors"))[0]
    whole = rank.read_bytes()
    rank.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=rf"{rank.name} is damaged"):
        search_ratios(saved("llama"), short, tmp_path / "s")


def test_expressions_that_tell_no_block_from_another_cannot_win(settings, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(Trials, "reduced", lambda self, expression: dict.fromkeys(self.problem.blocks, 2.0))
    with pytest.raises(RatioError, match="none of 12 candidates gives ratios that are finite and differ"):
        search_ratios(saved("llama"), settings, tmp_path / "s")
