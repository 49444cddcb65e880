"""Retention: rotated files are compressed, and the oldest are removed beyond the limits.

This runs in a thread of its own, and compression in a process: writing never waits.
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
from qmond.log.files import Kept, kept_files
from qmond.lognames import COMPRESSED, LIVE, PART, PLAIN, ROTATED

__all__ = ["Retention", "room", "surplus"]

_log = logging.getLogger(__name__)

_ROUND: Final = 10.0
"""Seconds between two rounds, if nothing was rotated."""
_STEP: Final = 1.0
"""Seconds between two checks while a file is compressed."""
_RETRY: Final = 600.0
"""Seconds until a file that could not be compressed is tried again."""


def room(config: Log) -> int:
    """Return the free bytes of the log's file system beyond `min_free`; may be negative."""
    found = os.statvfs(config.dir)
    return found.f_bavail * found.f_frsize - config.min_free


def surplus(files: Sequence[Kept], keep: Keep, live: int, now: float) -> list[Kept]:
    """Return the files that exceed the limits, of `files` with the oldest first.

    `live` is the size of the live file, `now` is in seconds since 1970.
    """
    total = live + sum(file.size for file in files)
    chosen = []
    for at, file in enumerate(files):
        if len(files) - at <= keep.files and total <= keep.bytes and now - file.moment <= keep.age:
            break
        chosen.append(file)
        total -= file.size
    return chosen


class Retention:
    """The rotated files of a log; `files` and `bytes` are their number and size when last seen."""

    def __init__(self, config: Log) -> None:
        self.config = config
        files = kept_files(config.dir)
        self.files, self.bytes = len(files), sum(file.size for file in files)
        self._thread = ThreadPoolExecutor(1, "qmond-retention")
        self._round: Future[None] | None = None
        self._due = 0.0
        self._closing = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._postponed: dict[
            str, float
        ] = {}  # names of files that could not be compressed, and until when
        self._unfreed: list[
            tuple[float, int]
        ] = []  # removed files whose space is not free yet: until when to wait, bytes
        self._failing = False

    def look(self, *, now: bool = False) -> None:
        """Start a round in the thread if one is due, or `now`."""
        if self._round and not self._round.done():
            self._due = 0.0 if now else self._due
        elif now or time.monotonic() >= self._due:
            self._due = time.monotonic() + _ROUND
            self._round = self._thread.submit(self._tidy)

    def close(self) -> None:
        """Stop. A file that is being compressed stays uncompressed."""
        self._closing.set()
        with contextlib.suppress(AttributeError):  # there is no child, or it has just ended
            self._child.terminate()  # type: ignore[union-attr]
        self._thread.shutdown()

    def _tidy(self) -> None:
        """Remove and compress files; runs in the thread."""
        try:
            for part in self.config.dir.glob(f"{ROTATED}{PART}"):  # no compressor runs now
                part.unlink()
            files = self._remove_surplus()
            while not self._closing.is_set() and (file := self._next_to_compress(files)):
                self._compress(file)
                files = self._remove_surplus()
        except OSError as error:
            if not self._failing:
                _log.warning("rotated files cannot be compressed or removed: %s", error)
            self._failing = True
        else:
            self._failing = False

    def _remove_surplus(self) -> list[Kept]:
        """Remove files beyond the limits, and return the others."""
        config = self.config
        files = kept_files(config.dir)
        more = 0  # bytes of the live file, and of the one being compressed
        for path in (config.dir / LIVE, *config.dir.glob(f"{ROTATED}{PART}")):
            with contextlib.suppress(FileNotFoundError):
                more += path.stat().st_size
        for file in surplus(files, config.keep, more, time.time()):
            file.path.unlink(missing_ok=True)
            files.remove(file)
        self._keep_min_free(files)
        self.files, self.bytes = len(files), sum(file.size for file in files)
        return files

    def _keep_min_free(self, files: list[Kept]) -> None:
        """Remove the oldest files until `min_free` bytes are free.

        A file that is being read frees its space only later. That space is waited for, one round.
        """
        now = time.monotonic()
        self._unfreed = [(until, size) for until, size in self._unfreed if until > now]
        gone: list[Kept] = []
        while files and (before := room(self.config)) + sum(size for _, size in self._unfreed) < 0:
            gone.append(files.pop(0))
            gone[-1].path.unlink(missing_ok=True)
            if room(self.config) - before < gone[-1].size // 2:
                self._unfreed.append((now + _ROUND, gone[-1].size))
        if gone:
            _log.warning(
                "%d files were removed to keep log.min_free bytes free, the newest of them %s",
                len(gone),
                gone[-1].path.name,
            )

    def _next_to_compress(self, files: Sequence[Kept]) -> Kept | None:
        """Return the oldest file that is due to be compressed, or None."""
        if self.config.compress not in COMPRESSED:
            return None
        before = time.time() - self.config.compress_delay
        for file in files:
            if (
                file.moment <= before
                and file.path.suffix == PLAIN
                and time.monotonic() >= self._postponed.get(file.path.name, 0)
            ):
                return file
        return None

    def _compress(self, file: Kept) -> None:
        """Compress a file, and remove files beyond the limits meanwhile."""
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
                if self._closing.is_set() or file not in self._remove_surplus():
                    child.terminate()
        self._child = None
        if status != 0 and not self._closing.is_set():
            self._postponed[file.path.name] = time.monotonic() + _RETRY


def _wait(child: subprocess.Popen[bytes]) -> int | None:
    """Wait for a process for a moment; returns its exit status, or None if it still runs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(_STEP)
    return None
