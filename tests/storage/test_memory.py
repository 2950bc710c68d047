import subprocess
import sys

import torch

from secateur.storage.memory import give_back_freed, peak_memory_mb


def test_peak_grows_with_what_is_held():
    before = peak_memory_mb()
    held = torch.ones(int(before) * 400_000)  # more than all memory used so far
    assert peak_memory_mb() > before + held.nbytes / 3e6


def test_freed_memory_goes_back():
    script = (
        "import torch; from secateur.storage.memory import give_back_freed\n"
        "def rss(): return int(open('/proc/self/statm').read().split()[1])\n"
        "kept = []\n"
        "held = [torch.ones(5000) for _ in range(20000)]; kept = held[::1000]; full = rss()\n"
        "del held; give_back_freed(); assert rss() < 0.7 * full, (rss(), full)"
    )
    if sys.platform == "linux":
        subprocess.run([sys.executable, "-c", script], check=True)
    give_back_freed()
