"""The event log: append complete lines, rotate files by size and age, and survive disk failures.

A complete file is renamed to `events-20261123T083452.123456Z.jsonl`, the time of its rotation, and
a new `events.jsonl` is begun. A reader that follows by name or by inode misses nothing.

Written data go to the disk soon, and then leave the page cache. Otherwise a busy log would push out
files that the host needs. Fresh pages are also slower to write to than pages that were just freed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from qmond.config.keys import Log
from qmond.errors import LogError
from qmond.log.files import (
    Position,
    is_at,
    kept_files,
    last_line,
    last_line_of,
    new_name,
    open_directory,
    open_live,
    recover,
)
from qmond.log.retention import Retention, room
from qmond.lognames import FRESH, LIVE

__all__ = ["EventLog"]

_log = logging.getLogger(__name__)

_RELEASE: Final = 8 << 20
"""Bytes after which written data are dropped from the page cache, and free space is checked."""
_RETRY: Final = 5.0
"""Seconds until a rotation that failed is tried again."""


class EventLog:
    """The log in one directory. It is locked: a second daemon is refused.

    `bytes` is the size of the live file, `total` what this daemon has written. `group` may read it.
    """

    def __init__(self, config: Log, group: int | None = None) -> None:
        """Open the log, and make its directory if needed. Raises LogError, InUseError."""
        self.path = config.dir / LIVE
        self.total = 0
        self.retention = Retention(config)
        self.group = group
        self._config = config
        self._disk_thread = ThreadPoolExecutor(
            1, "qmond-log"
        )  # for calls that may wait for the disk
        self._flushing: Future[None] | None = None
        self._flush_failed = self._rotation_failed = False
        """Whether a failed flush, or a failed rotation, has been logged."""
        try:
            open_directory(config.dir, group)
            self._fd = open_live(self.path, group)
            (config.dir / FRESH).unlink(missing_ok=True)
            self._begin(os.fstat(self._fd).st_size)
        except OSError as error:
            raise LogError(f"{error.filename or self.path}: {error.strerror}") from error

    def _begin(self, size: int, age: float = 0) -> None:
        """Reset the state for a live file of this size, and age in seconds."""
        self.bytes = self._flushed = self._synced = self._seen = size
        self._torn = False
        """Whether there are data after `bytes` that could not be removed."""
        self._full = self._displaced = False
        self._begun = time.monotonic() - age
        self._retry = self._sync_due = 0.0

    def recover(self) -> None:
        """Make the log end with a complete line, after a crash. Raises LogError."""
        try:
            found = recover(self._fd, self.path)
            size = os.fstat(self._fd).st_size
            age = time.time() - _moment(self._fd, size)
        except OSError as error:
            raise LogError(f"{self.path}: {error.strerror}") from error
        self._begin(size, max(0, age))
        if found:
            _log.warning("%s: %s", self.path, found)
        self.retention.look(now=True)

    def last_line(self) -> dict[str, object]:
        """Return the last line of the log, or {} if there is none."""
        if self.bytes:
            return last_line(self._fd, self.bytes)
        for file in reversed(kept_files(self.path.parent)):
            if file.path.suffix != ".torn":
                with contextlib.suppress(OSError):
                    return last_line_of(file.path)
        return {}

    @property
    def end(self) -> Position:
        """The position of the next line."""
        return Position.at(os.fstat(self._fd), self.bytes)

    def cut(self, end: Position) -> int:
        """Remove what was written after a position; returns the number of bytes.

        If the log was rotated since, the live file becomes empty. Raises LogError.
        """
        if end.is_in(os.fstat(self._fd)):
            size = end.offset
        elif any(end.is_in(file.lstat()) for file in self.path.parent.iterdir()):
            size = 0
        else:
            return 0  # the position is in another log
        gone = self.bytes - size
        if gone > 0:
            try:
                os.ftruncate(self._fd, size)
            except OSError as error:
                raise LogError(f"{self.path}: {error.strerror}") from error
            self._begin(size)
        return max(0, gone)

    # ---- writing -------------------------------------------------------------------------------

    def write(self, lines: bytes | memoryview) -> None:
        """Append complete lines; a full file is rotated first.

        Raises LogError; then none of the lines is in the file.
        """
        if self.bytes - self._flushed > _RELEASE:
            self._release()
            self._check_space()
        if self.blocked:
            raise LogError(self.blocked)
        if self.bytes and self.bytes + len(lines) > self._config.rotate.size:
            self._try_to_rotate()
        view = memoryview(lines)
        try:
            if self._torn:
                self._remove_torn()
            while view:
                view = view[os.write(self._fd, view) :]
            if self._config.sync == "batch":
                os.fdatasync(self._fd)
        except OSError as error:
            self._torn = True
            with contextlib.suppress(OSError):  # if this fails, the next write tries again
                self.bytes = min(self.bytes, os.fstat(self._fd).st_size - len(lines) + len(view))
                self._remove_torn()
            raise LogError(f"{error.filename or self.path}: {error.strerror}") from error
        self.bytes += len(lines)
        self.total += len(lines)

    @property
    def blocked(self) -> str:
        """Why nothing can be written, or "" if that is not known."""
        if self._displaced:
            return f"{self.path}: it was removed, and a new one cannot be created"
        return f"{self.path.parent}: less than log.min_free is free" if self._full else ""

    def _remove_torn(self) -> None:
        os.ftruncate(self._fd, self.bytes)
        self._torn = False

    # ---- a new file ----------------------------------------------------------------------------

    def rotate(self) -> Path | None:
        """Rotate: begin a new file, and return the path of the old one; None if it is empty.

        Raises LogError.
        """
        if not self.bytes:
            return None
        fresh = self.path.with_name(FRESH)
        fd = -1
        try:
            if self._torn:
                self._remove_torn()
            fd = open_live(fresh, self.group, new=True)
            renamed = new_name(self.path.parent)
            self.path.rename(renamed)
            fresh.rename(self.path)
        except (OSError, LogError) as error:
            if fd >= 0:
                os.close(fd)
                with contextlib.suppress(OSError):
                    fresh.unlink()
            if isinstance(error, LogError):
                raise
            raise LogError(f"{error.filename or self.path}: {error.strerror}") from error
        self._replace(fd)
        self._rotation_failed = False
        return renamed

    def _try_to_rotate(self) -> None:
        """Rotate; if that fails, continue with the old file, and try again later."""
        if time.monotonic() < self._retry:
            return
        try:
            self.rotate()
        except LogError as error:
            self._retry = time.monotonic() + _RETRY
            if not self._rotation_failed:
                _log.warning("the log cannot be rotated, its file grows on: %s", error)
            self._rotation_failed = True

    def reopen(self) -> None:
        """Begin a new file if another program has renamed or removed the log's. Raises LogError."""
        if is_at(self._fd, self.path):
            self._displaced = False
            return
        if not self._displaced:
            _log.warning("%s was renamed or removed; a new one is begun", self.path)
        self._displaced = True
        try:
            open_directory(self.path.parent, self.group)
            fd = open_live(self.path, self.group)
            try:
                if os.fstat(self._fd).st_nlink == 0:
                    self._rescue(fd)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise LogError(f"{error.filename or self.path}: {error.strerror}") from error
        self._replace(fd)

    def _rescue(self, fd: int) -> None:
        """Copy from the removed file what was written after it was last seen at its path."""
        size = self.bytes
        while self._seen < size:
            content = os.pread(self._fd, _RELEASE, self._seen)[: size - self._seen]
            self._seen += os.write(fd, content)

    def _replace(self, fd: int) -> None:
        sync = self._config.sync != "never"
        self._disk_thread.submit(_finish, self._fd, self.path.parent if sync else None)
        self._fd = fd
        self._begin(os.fstat(fd).st_size)
        self.retention.look(now=True)

    # ---- looking after it ----------------------------------------------------------------------

    def check(self) -> None:
        """Do the periodic work; called about once a second. Raises LogError."""
        self.reopen()
        size = os.fstat(self._fd).st_size
        if size < self.bytes:
            _log.warning("%s was cut to %d bytes by another program", self.path, size)
            self._begin(size)
        self._seen = self.bytes
        if self.bytes and time.monotonic() - self._begun >= self._config.rotate.age:
            self._try_to_rotate()
        interval = self._config.sync
        if (
            self._is_flushed()
            and isinstance(interval, float)
            and self.bytes != self._synced
            and time.monotonic() >= self._sync_due
            and self._flush(os.fdatasync, self._fd)
        ):
            self._synced, self._sync_due = self.bytes, time.monotonic() + interval - 0.5
        self._check_space()
        self.retention.look()

    def configure(self, config: Log) -> None:
        """Put another configuration in force; the directory stays."""
        self._config = self.retention.config = config
        self.retention.look(now=True)

    def describe(self) -> dict[str, Any]:
        """Return the log's part of `status`."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "total": self.total,
            "rotated": self.retention.files,
            "rotated_bytes": self.retention.bytes,
        }

    def close(self, *, sync: bool = True) -> None:
        """Close the live file; with `sync`, after it is on the disk."""
        self.retention.close()
        if sync:
            self._disk_thread.submit(_finish, self._fd, None)
        else:
            self._disk_thread.submit(os.close, self._fd)
        self._disk_thread.shutdown()

    def _check_space(self) -> None:
        with contextlib.suppress(OSError):  # the next write reports it
            lacks = room(self._config) < 0
            if lacks:
                self.retention.look(now=True)
            self._full = lacks and self.retention.files == 0

    def _release(self) -> None:
        """Start to write to the disk, and drop from the page cache what is there."""
        advice = os.POSIX_FADV_DONTNEED  # starts to write dirty pages, drops clean ones
        if self._flush(os.posix_fadvise, self._fd, 0, self.bytes, advice):
            self._flushed = self.bytes

    def _flush(self, call: Any, *arguments: int) -> bool:  # noqa: ANN401 - a system call
        """Start a call that waits for the disk; returns false if the last one is not finished."""
        if not self._is_flushed():
            return False
        self._flushing = self._disk_thread.submit(call, *arguments)
        return True

    def _is_flushed(self) -> bool:
        """Whether the last call is finished; if it failed, log that once, and flush again."""
        if self._flushing is None or not self._flushing.done():
            return self._flushing is None
        error = self._flushing.exception()
        self._flushing = None
        if error:
            self._synced = 0
            if not self._flush_failed:
                _log.error("%s: written lines may not be on the disk: %s", self.path, error)
        self._flush_failed = error is not None
        return True


def _moment(fd: int, size: int) -> float:
    """Return the time of a file's first line, in seconds since 1970; now if there is none."""
    head = os.pread(fd, min(size, 1 << 20), 0)
    try:
        return datetime.fromisoformat(str(last_line(fd, head.find(b"\n") + 1)["time"])).timestamp()
    except (KeyError, ValueError):
        return time.time()


def _finish(fd: int, directory: Path | None) -> None:
    """Close a rotated file after it and its name are on the disk."""
    try:
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if directory:
            names = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(names)
            finally:
                os.close(names)
    except OSError as error:
        _log.warning("a rotated file of the log may not be on the disk: %s", error.strerror)
    finally:
        os.close(fd)
