"""A lock on a folder, which the system lets go of when its process ends, however it ends."""

import os
import weakref
from pathlib import Path

__all__ = ["FolderLock"]


class FolderLock:
    """Held by one run at a time; no file is written for it.

    Where the system has no such locks (Windows, some network disks) every run gets it.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder, which need not exist yet."""
        self.folder = folder
        self._close: weakref.finalize[..., FolderLock] | None = None

    def take(self) -> bool:
        """Hold the lock from now on; False where another run holds it. Raises OSError without the folder."""
        try:
            import fcntl
        except ImportError:
            return True
        if self._close is not None:
            return True
        place = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(place)
            return False
        except OSError:  # a disk without locks
            os.close(place)
            return True
        self._close = weakref.finalize(self, os.close, place)  # the lock goes with the object, should nobody release it
        return True

    def release(self) -> None:
        """Let go of it, if it is held."""
        if self._close is not None:
            self._close()
            self._close = None
