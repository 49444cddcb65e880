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

from qmond.config.keys import Keep, Log
from qmond.log.compress import SUFFIXES
from qmond.log.files import LIVE, PART, Kept, kept_files

__all__ = ["Retention", "room", "surplus"]

_log = logging.getLogger(__name__)

_ROUND: Final = 10.0
"""Seconds between two looks at what is due, where nothing was rotated."""
_BREATH: Final = 1.0
"""Seconds between two looks while a file is compressed."""
_RETRY: Final = 600.0
"""Seconds until a file that could not be compressed is tried again."""


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
        self._postponed: dict[str, float] = {}  # files that could not be compressed, until when
        self._owed: list[tuple[float, int]] = []  # room of removed files: until when, and bytes
        self._failing = False

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
            for part in self.config.dir.glob(f"events-*{PART}"):  # no compressor runs now
                part.unlink()
            files = self._thinned()
            while not self._closing.is_set() and (file := self._ripe(files)):
                self._compress(file)
                files = self._thinned()
        except OSError as error:
            if not self._failing:
                _log.warning("old files of the log are not looked after: %s", error)
            self._failing = True
        else:
            self._failing = False

    def _thinned(self) -> list[Kept]:
        """Remove what must go, and return what is left."""
        config = self.config
        files = kept_files(config.dir)
        more = 0  # the live file, and what is being compressed
        for path in (config.dir / LIVE, *config.dir.glob(f"events-*{PART}")):
            with contextlib.suppress(FileNotFoundError):
                more += path.stat().st_size
        for file in surplus(files, config.keep, more, time.time()):
            file.path.unlink(missing_ok=True)
            files.remove(file)
        self._make_room(files)
        self.files, self.bytes = len(files), sum(file.size for file in files)
        return files

    def _make_room(self, files: list[Kept]) -> None:
        """Remove the oldest files until there is `min_free` of room.

        What somebody reads gives its room back only later: that is waited for, a round long.
        """
        now = time.monotonic()
        self._owed = [(until, size) for until, size in self._owed if until > now]
        gone: list[Kept] = []
        while files and (before := room(self.config)) + sum(size for _, size in self._owed) < 0:
            gone.append(files.pop(0))
            gone[-1].path.unlink(missing_ok=True)
            if room(self.config) - before < gone[-1].size // 2:
                self._owed.append((now + _ROUND, gone[-1].size))
        if gone:
            _log.warning(
                "%d files removed to have log.min_free bytes of room, up to %s",
                len(gone),
                gone[-1].path.name,
            )

    def _ripe(self, files: Sequence[Kept]) -> Kept | None:
        """Return a file that is to be compressed now."""
        if self.config.compress not in SUFFIXES:
            return None
        before = time.time() - self.config.compress_delay
        for file in files:
            if (
                file.moment <= before
                and file.path.suffix == ".jsonl"
                and time.monotonic() >= self._postponed.get(file.path.name, 0)
            ):
                return file
        return None

    def _compress(self, file: Kept) -> None:
        """Have a file compressed; meanwhile what must go goes."""
        command = (
            sys.executable,
            "-P",
            "-m",
            "qmond.log.compress",
            self.config.compress,
            file.path,
        )
        with subprocess.Popen(command) as child:  # noqa: S603 - our own program
            self._child = child
            while (status := _wait(child)) is None:
                if self._closing.is_set() or file not in self._thinned():
                    child.terminate()
        self._child = None
        if status != 0 and not self._closing.is_set():
            self._postponed[file.path.name] = time.monotonic() + _RETRY


def _wait(child: subprocess.Popen[bytes]) -> int | None:
    """Wait for a process for a breath; returns its status once it has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(_BREATH)
    return None
