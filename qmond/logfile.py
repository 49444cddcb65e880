"""The files of the event log: their names, how one is opened safely, and what a crash left.

`events.jsonl` is written to; `events-20261123T083452.123456Z.jsonl` was renamed at that moment,
and may be compressed since (`.zst`, `.gz`); `events-….torn` has what a crash left of a last line.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from qmond.errors import InUseError, LogError

__all__ = [
    "LIVE",
    "PART",
    "Kept",
    "is_at",
    "kept_files",
    "last_line",
    "new_name",
    "open_directory",
    "open_live",
    "recover",
]

LIVE: Final = "events.jsonl"
PART: Final = ".part"
"""What the name of a file ends with that is not yet compressed to its end."""
_NAME: Final = re.compile(r"events-(\d{8}T\d{6}\.\d{6}Z)\.")
_STEP: Final = 1 << 20
"""Bytes; no line is as long."""
_MODE: Final = 0o640
_DIRECTORY_MODE: Final = 0o750


class Kept(NamedTuple):
    """A file beside the live one: when it was rotated, in seconds since 1970, and its bytes."""

    moment: float
    path: Path
    size: int


def kept_files(directory: Path) -> list[Kept]:
    """Return what there is beside the live file, the oldest first; what just goes is left out."""
    found = []
    for path in directory.glob("events-*"):
        if (named := _NAME.match(path.name)) and path.suffix != PART:
            with contextlib.suppress(FileNotFoundError):
                moment = datetime.fromisoformat(named[1]).timestamp()
                found.append(Kept(moment, path, path.lstat().st_size))
    return sorted(found)


def new_name(directory: Path) -> Path:
    """Return what a file is called that is rotated now: after all others, whatever the clock."""
    moment = datetime.now(UTC)
    if names := [name for name in os.listdir(directory) if _NAME.match(name)]:
        last = datetime.fromisoformat(max(names)[len("events-") :].partition("Z")[0] + "Z")
        moment = max(moment, last + timedelta(microseconds=1))
    return directory / f"events-{moment:%Y%m%dT%H%M%S.%f}Z.jsonl"


def open_directory(directory: Path, group: int | None) -> None:
    """Make the directory where there is none. Raises LogError where it is not safe, OSError."""
    try:
        directory.mkdir(mode=_DIRECTORY_MODE, parents=True)
        if group is not None:
            os.chown(directory, -1, group)
    except FileExistsError:
        found = directory.stat()
        if found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o022:
            raise LogError(
                f"{directory}: others than root may write there (owner {found.st_uid}, "
                f"mode {found.st_mode & 0o7777:04o}), and could put files in place of the log's",
                hint=f"chown root and chmod {_DIRECTORY_MODE:o} it, or give another log.dir",
            ) from None


def open_live(path: Path, group: int | None, *, new: bool = False) -> int:
    """Open a file for appending, and lock it: that says whose the log is.

    Raises InUseError where another daemon has it, LogError where it is no file of ours, OSError.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags | (os.O_EXCL if new else 0), _MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LogError(f"{path}: a symbolic link, which is not followed") from error
        raise
    try:
        _claim(fd, path, group)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _claim(fd: int, path: Path, group: int | None) -> None:
    """Make sure that a file is ours, and no one else's."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
        raise LogError(
            f"{path}: not a file of this daemon's alone (owner {found.st_uid}, "
            f"{found.st_nlink} names, mode {found.st_mode:o}): it is not written to",
            hint="move it away, or give another log.dir",
        )
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUseError(
            f"{path}: another qmond writes this log", hint="give this one another log.dir"
        ) from error
    if group is not None and found.st_gid != group:
        os.fchown(fd, -1, group)
    if stat.S_IMODE(found.st_mode) != _MODE:
        os.fchmod(fd, _MODE)


def is_at(fd: int, path: Path) -> bool:
    """Whether an open file is what a path leads to."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except OSError:
        return False


def last_line(fd: int, size: int) -> dict[str, object]:
    """Return the last line of a file that has so many bytes; an empty one where it is no object."""
    tail = os.pread(fd, min(size, _STEP), max(0, size - _STEP))
    return _parsed(tail.rstrip(b"\n").rpartition(b"\n")[2])


def recover(fd: int, path: Path) -> str:
    """Have the file end with a whole line; returns what was found, or nothing. Raises OSError.

    A crash may cut a line off, a power failure may leave zeros or nothing legible in its place:
    what is no line is set aside in a file of its own.
    """
    size = os.fstat(fd).st_size
    whole = _whole(fd, size)
    if whole == size:
        return ""
    rest = os.pread(fd, _STEP, whole)
    if len(rest) == size - whole and _parsed(rest):
        os.write(fd, b"\n")
        return "the last line lacked its end, and has it now"
    aside = new_name(path.parent).with_suffix(".torn")
    torn = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        os.fchown(torn, -1, os.fstat(fd).st_gid)
        at = whole
        while at < size:
            at += os.sendfile(torn, fd, at, size - at)
    finally:
        os.close(torn)
    os.ftruncate(fd, whole)
    return f"the last {size - whole} bytes were no whole line, and are in {aside.name} now"


def _whole(fd: int, size: int) -> int:
    """Return how many bytes there are up to the last whole line that is one."""
    for end in _ends(fd, size):
        if end == 0 or last_line(fd, end):
            return end
    return 0


def _ends(fd: int, size: int) -> Iterator[int]:
    """Yield where lines end, from the last one on backwards."""
    at, step = size, b""
    while at > 0:
        begin = max(0, at - _STEP)
        step = os.pread(fd, at - begin, begin)
        while (found := step.rfind(b"\n")) >= 0:
            yield begin + found + 1
            step = step[:found]
        at = begin
    yield 0


def _parsed(line: bytes) -> dict[str, object]:
    """Return a line as an object; where it is none, an empty one."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
