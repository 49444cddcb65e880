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
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from gzip import GzipFile
from pathlib import Path
from typing import IO, Final, NamedTuple, Self

import orjson

from qmond.errors import InUseError, LogError

__all__ = [
    "FRESH",
    "LIVE",
    "PART",
    "Kept",
    "Position",
    "chunks",
    "is_at",
    "kept_files",
    "last_line",
    "last_line_of",
    "new_name",
    "open_directory",
    "open_live",
    "recover",
]

LIVE: Final = "events.jsonl"
FRESH: Final = "events.new"
"""What the next live file is called until the one before has its own name."""
PART: Final = ".part"
"""What the name of a file ends with that is not yet compressed to its end."""
_NAME: Final = re.compile(r"events-(\d{8}T\d{6}\.\d{6}Z)\.")
_STEP: Final = 1 << 20
"""Bytes; no line is as long."""
_MODE: Final = 0o640
_DIRECTORY_MODE: Final = 0o750


class Position(NamedTuple):
    """A place in the log: a file, by its numbers, and how many bytes of it are before."""

    device: int
    inode: int
    offset: int

    @classmethod
    def at(cls, file: os.stat_result, offset: int) -> Self:
        """Return a place in a file."""
        return cls(file.st_dev, file.st_ino, offset)

    def is_in(self, file: os.stat_result) -> bool:
        """Whether it is a place in that file."""
        return (self.device, self.inode) == (file.st_dev, file.st_ino)


class Kept(NamedTuple):
    """A file beside the live one: when it was rotated, in seconds since 1970, and its bytes.

    A name may be of a later moment: names go on though the clock goes back.
    """

    path: Path
    moment: float
    size: int


def kept_files(directory: Path) -> list[Kept]:
    """Return what there is beside the live file, the oldest first; what just goes is left out."""
    found = []
    for path in directory.glob("events-*"):
        if (named := _named(path.name)) and path.suffix != PART:
            with contextlib.suppress(FileNotFoundError):
                seen = path.lstat()  # a rename is a change of the inode
                moment = min(named.timestamp(), seen.st_ctime)
                found.append(Kept(path, moment, seen.st_size))
    return sorted(found)


def new_name(directory: Path) -> Path:
    """Return what a file is called that is rotated now: after all others, whatever the clock."""
    moment = datetime.now(UTC)
    if names := [named for name in os.listdir(directory) if (named := _named(name))]:
        moment = max(moment, max(names) + timedelta(microseconds=1))
    return directory / f"events-{moment:%Y%m%dT%H%M%S.%f}Z.jsonl"


def _named(name: str) -> datetime | None:
    """Return the moment that a file is called after; None where that is none."""
    with contextlib.suppress(ValueError):
        if found := _NAME.match(name):
            return datetime.fromisoformat(found[1])
    return None


def open_directory(directory: Path, group: int | None) -> None:
    """Make the directory where there is none. Raises LogError where it is not safe, OSError."""
    try:
        directory.mkdir(mode=_DIRECTORY_MODE, parents=True)
        if group is not None:
            os.chown(directory, -1, group)
    except FileExistsError:
        found = directory.stat()
        if group is not None:
            _give(directory, group)
        if found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o022:
            raise LogError(
                f"{directory}: others than root may write there (owner {found.st_uid}, "
                f"mode {found.st_mode & 0o7777:04o}), and could put files in place of the log's",
                hint=f"chown root and chmod {_DIRECTORY_MODE:o} it, or give another log.dir",
            ) from None


def _give(directory: Path, group: int) -> None:
    """Let a group read what is there already, as far as that is ours to give."""
    for path in [directory, *directory.glob("events-*")]:
        with contextlib.suppress(OSError):
            found = path.lstat()
            if found.st_gid != group and found.st_uid == os.geteuid():
                os.chown(path, -1, group, follow_symlinks=False)
            if path == directory and found.st_mode & 0o050 != 0o050:
                path.chmod(stat.S_IMODE(found.st_mode) | 0o050)


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
        try:
            os.fchown(fd, -1, group)
        except PermissionError as error:
            raise LogError(
                f"{path}: cannot be given to the group {group} of log.group",
                hint="a service must be in that group: Group= in a drop-in",
            ) from error
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


def last_line_of(path: Path) -> dict[str, object]:
    """Return the last line of a complete file, as `last_line` does. Raises OSError."""
    with path.open("rb") as file:
        if path.suffix == ".jsonl":
            return last_line(file.fileno(), os.fstat(file.fileno()).st_size)
        tail = b""
        for chunk in chunks(file, path.suffix):
            tail = (tail + chunk)[-_STEP:]
    return _parsed(tail.rstrip(b"\n").rpartition(b"\n")[2])


def chunks(file: IO[bytes], suffix: str, size: int = _STEP) -> Iterator[bytes]:
    """Yield the content of a file, compressed or not as its suffix says, in parts of a size.

    Raises OSError, also where what was compressed is damaged.
    """
    content, damaged = file, tuple[type[Exception], ...]()
    if suffix == ".gz":
        content, damaged = GzipFile(fileobj=file), (EOFError, zlib.error)  # type: ignore[assignment] # it reads, which is all
    elif suffix == ".zst":
        import zstandard  # noqa: PLC0415 - only where there is such a file

        content = zstandard.ZstdDecompressor().stream_reader(file, closefd=False)
        damaged = (zstandard.ZstdError,)
    try:
        while chunk := content.read(size):
            yield chunk
    except damaged as error:
        raise OSError(errno.EBADMSG, f"damaged: {error}") from error


def recover(fd: int, path: Path) -> str:
    """Have the file end with a whole line; returns what was found, or nothing. Raises OSError.

    A crash may cut a line off, a power failure may leave zeros or nothing legible in its place:
    what is no line is set aside in a file of its own, or where there is no room for that, given up.
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
    try:
        _set_aside(fd, whole, size, aside)
        where = f"are in {aside.name} now"
    except OSError as error:
        aside.unlink(missing_ok=True)
        where = f"are gone, as they could not be set aside: {error.strerror}"
    os.ftruncate(fd, whole)
    return f"the last {size - whole} bytes were no whole line, and {where}"


def _set_aside(fd: int, begin: int, end: int, path: Path) -> None:
    torn = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        os.fchown(torn, -1, os.fstat(fd).st_gid)
        while begin < end:
            begin += os.sendfile(torn, fd, begin, end - begin)
    finally:
        os.close(torn)


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
