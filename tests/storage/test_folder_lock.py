import os
import signal
import subprocess
import sys

import pytest

from secateur.storage.folder_lock import FolderLock

HOLD = (
    "import sys, time; from pathlib import Path; from secateur.storage.folder_lock import FolderLock\n"
    "lock = FolderLock(Path(sys.argv[1])); print(lock.take(), flush=True); time.sleep(60)"
)


def test_one_holds_it_at_a_time_and_letting_go_is_enough(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    assert first.take() and first.take() and not second.take()
    second.release()
    assert not second.take()
    first.release()
    assert second.take()
    del second
    assert first.take() and not list(tmp_path.iterdir())


def test_a_killed_process_holds_nothing(tmp_path):
    held = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert held.stdout is not None and held.stdout.readline() == "True\n"
    lock = FolderLock(tmp_path)
    assert not lock.take()
    os.kill(held.pid, signal.SIGKILL)
    held.wait()
    held.stdout.close()
    assert lock.take()


def test_no_folder_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        FolderLock(tmp_path / "none").take()
