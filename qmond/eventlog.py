"""The event log: append whole lines, rotate by size, keep a number of old files.

A file that is full is renamed to `events-20261123T083452.123456Z.jsonl`, the moment of its
rotation, and a new `events.jsonl` is begun: whoever follows by name or by inode misses nothing.

What is written goes to the disk soon, and then leaves the page cache: a busy log would otherwise
push out the files that the host's own work needs, and the pages that the log must have anew are
slower to write to than those that it just gave back.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from qmond.errors import InUseError, LogError

__all__ = ["LIVE", "EventLog"]

_log = logging.getLogger(__name__)

LIVE: Final = "events.jsonl"
_ROTATED: Final = "events-*.jsonl"
_TAIL: Final = 1 << 20
"""Bytes; no line is as long."""
_RELEASE: Final = 8 << 20
"""Bytes written until the page cache is relieved of them once more."""


class EventLog:
    """The log in one directory, which is this daemon's alone: a second one is refused."""

    def __init__(self, directory: Path, *, rotate_size: int, keep_files: int) -> None:
        """Open the log, and make the directory where there is none. Raises LogError, InUseError."""
        self._path = directory / LIVE
        self._rotate_size = rotate_size
        self._keep_files = keep_files
        self._aside = ThreadPoolExecutor(1, "qmond-log")  # what may wait for the disk
        self._releasing: Future[None] | None = None
        self._released = 0
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._fd = _open(self._path)
            self.bytes = _end_torn_line(self._fd)
        except OSError as error:
            raise LogError(f"{error.filename or self._path}: {error.strerror}") from error
        self.rotated = len(self._old())

    @property
    def path(self) -> Path:
        """The file that is written to now."""
        return self._path

    def last_line(self) -> dict[str, object] | None:
        """Return the last line of the log, where it is a whole JSON object."""
        tail = os.pread(self._fd, _TAIL, max(0, self.bytes - _TAIL))
        old = self._old()
        if not self.bytes and old:  # the live file has just been begun
            with old[-1].open("rb") as file:
                file.seek(max(0, old[-1].stat().st_size - _TAIL))
                tail = file.read()
        return _parsed(tail.rstrip(b"\n").rpartition(b"\n")[2]) or None

    @property
    def inode(self) -> int:
        """The file that is written to now, by its number."""
        return os.fstat(self._fd).st_ino

    def cut(self, inode: int, size: int, seq: int) -> int:
        """Take back what was written after a file had a size, and the line `seq` came next.

        Returns how many bytes that were; a file that was begun since goes back to nothing.
        Raises LogError.
        """
        if self.inode != inode:
            first = _parsed(os.pread(self._fd, _TAIL, 0).partition(b"\n")[0])
            number = first.get("seq")
            if not isinstance(number, int) or number < seq:
                return 0  # that is another log
            size = 0
        gone = self.bytes - size
        if gone > 0:
            try:
                os.ftruncate(self._fd, size)
            except OSError as error:
                raise LogError(f"{self._path}: {error.strerror}") from error
            self.bytes = size
        return max(0, gone)

    def write(self, lines: bytes | memoryview) -> None:
        """Append whole lines; a file that is full is rotated before.

        Raises LogError, and then none of them is in the file.
        """
        try:
            if self.bytes and self.bytes + len(lines) > self._rotate_size:
                self._rotate()
            view = memoryview(lines)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            os.ftruncate(self._fd, self.bytes)
            raise LogError(f"{error.filename or self._path}: {error.strerror}") from error
        self.bytes += len(lines)
        if self.bytes - self._released > _RELEASE:
            self._release()

    def rotate(self) -> Path | None:
        """Begin a new file, and return what the old one is called now; None where it is empty.

        Raises LogError.
        """
        if not self.bytes:
            return None
        try:
            return self._rotate()
        except OSError as error:
            raise LogError(f"{error.filename or self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the live file."""
        self._aside.shutdown()
        os.close(self._fd)

    def _release(self) -> None:
        """Have what is written go to the disk, and leave the page cache once it is there."""
        if self._releasing and not self._releasing.done():
            return  # the disk is slower than the guests: the cache is there for that
        self._released = self.bytes
        advice = os.POSIX_FADV_DONTNEED  # begins to write what is dirty, drops what is not
        self._releasing = self._aside.submit(os.posix_fadvise, self._fd, 0, self.bytes, advice)

    def _old(self) -> list[Path]:
        return sorted(self._path.parent.glob(_ROTATED))  # the names sort by time

    def _rotate(self) -> Path:
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        renamed = self._path.with_name(f"events-{moment}.jsonl")
        with contextlib.suppress(FileNotFoundError):  # renamed, and then no new one could be had
            self._path.rename(renamed)
        fresh = _open(self._path)
        self._aside.submit(_finish, self._fd)
        self._fd, self.bytes, self._released = fresh, 0, 0
        old = self._old()
        for path in old[: -self._keep_files]:
            path.unlink()
        self.rotated = min(len(old), self._keep_files)
        return renamed


def _parsed(line: bytes) -> dict[str, object]:
    """Return a line as an object; where it is none, an empty one."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _open(path: Path) -> int:
    """Open for appending, and take the lock that says whose it is; no symbolic link is followed."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise InUseError(
            f"{path}: another qmond writes this log", hint="give this one another log.dir"
        ) from error
    return fd


def _finish(fd: int) -> None:
    """Close a file that is complete, once it is on the disk and out of the page cache."""
    try:
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        _log.warning("a rotated file of the log may not be on the disk: %s", error.strerror)
    finally:
        os.close(fd)


def _end_torn_line(fd: int) -> int:
    """Return the file's size, after ending a last line that a crash cut off."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        size += os.write(fd, b"\n")
    return size
