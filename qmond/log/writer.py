"""The event log: append whole lines, begin a new file when one is full or old, survive trouble.

A file that is complete is renamed to `events-20261123T083452.123456Z.jsonl`, the moment of its
rotation, and a new `events.jsonl` is begun: whoever follows by name or by inode misses nothing.

What is written goes to the disk soon, and then leaves the page cache: a busy log would otherwise
push out the files that the host's own work needs, and the pages that the log must have anew are
slower to write to than those that it just gave back.
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
    FRESH,
    LIVE,
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

__all__ = ["EventLog"]

_log = logging.getLogger(__name__)

_RELEASE: Final = 8 << 20
"""Bytes written until the page cache is relieved of them once more, and room is looked for."""
_RETRY: Final = 5.0
"""Seconds until a rotation that failed is tried again."""


class EventLog:
    """The log in one directory, which is this daemon's alone: a second one is refused.

    `bytes` are those of the live file; `total` those written by this daemon. `group` may read it.
    """

    def __init__(self, config: Log, group: int | None = None) -> None:
        """Open the log, and make the directory where there is none. Raises LogError, InUseError."""
        self.path = config.dir / LIVE
        self.total = 0
        self.retention = Retention(config)
        self.group = group
        self._config = config
        self._aside = ThreadPoolExecutor(1, "qmond-log")  # what may wait for the disk
        self._flushing: Future[None] | None = None
        self._unsure = self._stuck = False
        """Whether it was said that the disk took not all, or that no new file can be had."""
        try:
            open_directory(config.dir, group)
            self._fd = open_live(self.path, group)
            (config.dir / FRESH).unlink(missing_ok=True)
            self._begin(os.fstat(self._fd).st_size)
        except OSError as error:
            raise LogError(f"{error.filename or self.path}: {error.strerror}") from error

    def _begin(self, size: int, age: float = 0) -> None:
        """Enter what the live file is now."""
        self.bytes = self._flushed = self._synced = self._sure = size
        self._torn = False
        """Whether what is in the file behind `bytes` could not be taken back."""
        self._full = self._adrift = False
        self._begun = time.monotonic() - age
        self._retry = self._sync_due = 0.0

    def recover(self) -> None:
        """Have the log end with a whole line, whatever a crash left there. Raises LogError."""
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
        """Return the last line of the log, or an empty one where there is none."""
        if self.bytes:
            return last_line(self._fd, self.bytes)
        for file in reversed(kept_files(self.path.parent)):
            if file.path.suffix != ".torn":
                with contextlib.suppress(OSError):
                    return last_line_of(file.path)
        return {}

    @property
    def end(self) -> Position:
        """Where the next line comes."""
        return Position.at(os.fstat(self._fd), self.bytes)

    def cut(self, end: Position) -> int:
        """Take back what was written since the log had that end; returns how many bytes that were.

        A file that was begun since goes back to nothing. Raises LogError.
        """
        if end.is_in(os.fstat(self._fd)):
            size = end.offset
        elif any(end.is_in(file.lstat()) for file in self.path.parent.iterdir()):
            size = 0
        else:
            return 0  # that is another log
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
        """Append whole lines; a file that is full is rotated before.

        Raises LogError, and then none of them is in the file.
        """
        if self.bytes - self._flushed > _RELEASE:
            self._release()
            self._look_for_room()
        if self.blocked:
            raise LogError(self.blocked)
        if self.bytes and self.bytes + len(lines) > self._config.rotate.size:
            self._rotate_where_possible()
        view = memoryview(lines)
        try:
            if self._torn:
                self._take_back()
            while view:
                view = view[os.write(self._fd, view) :]
            if self._config.sync == "batch":
                os.fdatasync(self._fd)
        except OSError as error:
            self._torn = True
            with contextlib.suppress(OSError):  # then it is tried before the next line
                self.bytes = min(self.bytes, os.fstat(self._fd).st_size - len(lines) + len(view))
                self._take_back()
            raise LogError(f"{error.filename or self.path}: {error.strerror}") from error
        self.bytes += len(lines)
        self.total += len(lines)

    @property
    def blocked(self) -> str:
        """Why nothing can be written, as far as that is known without trying."""
        if self._adrift:
            return f"{self.path}: it was removed, and no other can be had"
        return f"{self.path.parent}: less than log.min_free of room" if self._full else ""

    def _take_back(self) -> None:
        os.ftruncate(self._fd, self.bytes)
        self._torn = False

    # ---- a new file ----------------------------------------------------------------------------

    def rotate(self) -> Path | None:
        """Begin a new file, and return what the old one is called now; None where it is empty.

        Raises LogError.
        """
        if not self.bytes:
            return None
        fresh = self.path.with_name(FRESH)
        fd = -1
        try:
            if self._torn:
                self._take_back()
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
        self._stuck = False
        return renamed

    def _rotate_where_possible(self) -> None:
        """Begin a new file; where that fails, the old one goes on for a while."""
        if time.monotonic() < self._retry:
            return
        try:
            self.rotate()
        except LogError as error:
            self._retry = time.monotonic() + _RETRY
            if not self._stuck:
                _log.warning("the log's file is full, and goes on: %s", error)
            self._stuck = True

    def reopen(self) -> None:
        """Begin a file at the log's path, where another program has taken it. Raises LogError."""
        if is_at(self._fd, self.path):
            self._adrift = False
            return
        if not self._adrift:
            _log.warning("%s was renamed or removed, and is begun anew", self.path)
        self._adrift = True
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
        """Copy what was written since the file was seen in its place last, and then was removed."""
        size = self.bytes
        while self._sure < size:
            content = os.pread(self._fd, _RELEASE, self._sure)[: size - self._sure]
            self._sure += os.write(fd, content)

    def _replace(self, fd: int) -> None:
        sync = self._config.sync != "never"
        self._aside.submit(_finish, self._fd, self.path.parent if sync else None)
        self._fd = fd
        self._begin(os.fstat(fd).st_size)
        self.retention.look(now=True)

    # ---- looking after it ----------------------------------------------------------------------

    def check(self) -> None:
        """Do what is due by the clock; called about once a second. Raises LogError."""
        self.reopen()
        size = os.fstat(self._fd).st_size
        if size < self.bytes:
            _log.warning("%s was cut to %d bytes by another program", self.path, size)
            self._begin(size)
        self._sure = self.bytes
        if self.bytes and time.monotonic() - self._begun >= self._config.rotate.age:
            self._rotate_where_possible()
        interval = self._config.sync
        if (
            self._is_flushed()
            and isinstance(interval, float)
            and self.bytes != self._synced
            and time.monotonic() >= self._sync_due
            and self._flush(os.fdatasync, self._fd)
        ):
            self._synced, self._sync_due = self.bytes, time.monotonic() + interval - 0.5
        self._look_for_room()
        self.retention.look()

    def configure(self, config: Log) -> None:
        """Go by another configuration from here on; the directory stays."""
        self._config = self.retention.config = config
        self.retention.look(now=True)

    def describe(self) -> dict[str, Any]:
        """Return what `status` says of the log."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "total": self.total,
            "rotated": self.retention.files,
            "rotated_bytes": self.retention.bytes,
        }

    def close(self, *, sync: bool = True) -> None:
        """Close the live file, with `sync` once it is on the disk."""
        self.retention.close()
        if sync:
            self._aside.submit(_finish, self._fd, None)
        else:
            self._aside.submit(os.close, self._fd)
        self._aside.shutdown()

    def _look_for_room(self) -> None:
        with contextlib.suppress(OSError):  # a write will tell
            lacks = room(self._config) < 0
            if lacks:
                self.retention.look(now=True)
            self._full = lacks and self.retention.files == 0

    def _release(self) -> None:
        """Have what is written go to the disk, and leave the page cache once it is there."""
        advice = os.POSIX_FADV_DONTNEED  # begins to write what is dirty, drops what is not
        if self._flush(os.posix_fadvise, self._fd, 0, self.bytes, advice):
            self._flushed = self.bytes

    def _flush(self, call: Any, *arguments: int) -> bool:  # noqa: ANN401 - a system call
        """Have the disk do something, unless it is still busy with the last; says which."""
        if not self._is_flushed():
            return False
        self._flushing = self._aside.submit(call, *arguments)
        return True

    def _is_flushed(self) -> bool:
        """Whether the disk is done; what it did not take is said, once, and due anew."""
        if self._flushing is None or not self._flushing.done():
            return self._flushing is None
        error = self._flushing.exception()
        self._flushing = None
        if error:
            self._synced = 0
            if not self._unsure:
                _log.error("%s: written lines may not be on the disk: %s", self.path, error)
        self._unsure = error is not None
        return True


def _moment(fd: int, size: int) -> float:
    """Return when a file's first line was made, in seconds since 1970; now where it has none."""
    head = os.pread(fd, min(size, 1 << 20), 0)
    try:
        return datetime.fromisoformat(str(last_line(fd, head.find(b"\n") + 1)["time"])).timestamp()
    except (KeyError, ValueError):
        return time.time()


def _finish(fd: int, directory: Path | None) -> None:
    """Close a file that is complete, once it and its name are on the disk."""
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
