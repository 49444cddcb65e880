"""What stays of the log: old files are compressed, and go where there are too many of them.

All of it happens in a thread of its own, and compression in a process: the log never waits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from qmond.compress import SUFFIXES
from qmond.config import Keep, Log
from qmond.logfile import LIVE, PART, Kept, kept_files

__all__ = ["Retention", "room", "surplus"]

_log = logging.getLogger(__name__)

_ROUND: Final = 10.0
"""Seconds between two looks at what is due, where nothing was rotated."""


def room(config: Log) -> int:
    """Return how many bytes the log's file system has room for beyond `min_free`; may be < 0."""
    found = os.statvfs(config.dir)
    return found.f_bavail * found.f_frsize - config.min_free


def surplus(files: Sequence[Kept], keep: Keep, live: int, now: float) -> list[Kept]:
    """Return which of the rotated files, the oldest first, are too many; `live` is in bytes."""
    total = live + sum(file.size for file in files)
    chosen = []
    for at, file in enumerate(files):
        if len(files) - at <= keep.files and total <= keep.bytes and now - file.moment <= keep.age:
            break
        chosen.append(file)
        total -= file.size
    return chosen


class Retention:
    """The old files of one log; `files` and `bytes` are what there was of them at the last look."""

    def __init__(self, config: Log) -> None:
        self.config = config
        files = kept_files(config.dir)
        self.files, self.bytes = len(files), sum(file.size for file in files)
        self._thread = ThreadPoolExecutor(1, "qmond-retention")
        self._round: Future[None] | None = None
        self._due = 0.0
        self._closing = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._unsuited: set[str] = set()  # could not be compressed

    def look(self, *, now: bool = False) -> None:
        """Do what is due, aside; at once where something has changed."""
        if self._round and not self._round.done():
            self._due = 0.0 if now else self._due
        elif now or time.monotonic() >= self._due:
            self._due = time.monotonic() + _ROUND
            self._round = self._thread.submit(self._tidy)

    def close(self) -> None:
        """Stop; a file that is being compressed stays as it is."""
        self._closing.set()
        with contextlib.suppress(AttributeError):  # there is none, or it has just ended
            self._child.terminate()  # type: ignore[union-attr]
        self._thread.shutdown()

    def _tidy(self) -> None:
        """Remove and compress what is due: runs in the thread."""
        try:
            files = self._thinned()
            while not self._closing.is_set() and (file := self._ripe(files)):
                self._compress(file)
                files = self._thinned()
        except OSError as error:
            _log.warning("old files of the log are not looked after: %s", error)

    def _thinned(self) -> list[Kept]:
        """Remove what must go, and return what is left."""
        config = self.config
        for part in config.dir.glob(f"events-*{PART}"):  # no compressor runs now
            part.unlink()
        files = kept_files(config.dir)
        live = 0
        with contextlib.suppress(FileNotFoundError):
            live = (config.dir / LIVE).stat().st_size
        for file in surplus(files, config.keep, live, time.time()):
            file.path.unlink(missing_ok=True)
            files.remove(file)
        while files and room(config) < 0:
            file = files.pop(0)
            _log.warning("removed to have log.min_free bytes of room: %s", file.path.name)
            file.path.unlink(missing_ok=True)
        self.files, self.bytes = len(files), sum(file.size for file in files)
        return files

    def _ripe(self, files: Sequence[Kept]) -> Kept | None:
        """Return a file that is to be compressed now."""
        if self.config.compress not in SUFFIXES:
            return None
        before = time.time() - self.config.compress_delay
        for file in files:
            if file.moment > before:
                break
            if file.path.suffix == ".jsonl" and file.path.name not in self._unsuited:
                return file
        return None

    def _compress(self, file: Kept) -> None:
        command = [sys.executable, "-m", "qmond.compress", self.config.compress, str(file.path)]
        self._child = subprocess.Popen(command)  # noqa: S603 - our own program
        if self._closing.is_set():
            self._child.terminate()
        if self._child.wait() != 0 and not self._closing.is_set() and file.path.exists():
            self._unsuited.add(file.path.name)
        self._child = None
