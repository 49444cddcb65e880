"""The files of the event log: how one is opened safely, and recovery after a crash."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from gzip import GzipFile
from pathlib import Path
from typing import IO, Final, NamedTuple, Self

import orjson

from qmond.errors import InUseError, LogError
from qmond.lognames import PART, PLAIN, ROTATED, rotated_name, rotation_time

__all__ = [
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

_STEP: Final = 1 << 20
"""Bytes; every line is shorter."""
_MODE: Final = 0o640
_DIRECTORY_MODE: Final = 0o750


class Position(NamedTuple):
    """A position in the log: a file, by device and inode, and an offset in bytes."""

    device: int
    inode: int
    offset: int

    @classmethod
    def at(cls, file: os.stat_result, offset: int) -> Self:
        """Return a position in a file."""
        return cls(file.st_dev, file.st_ino, offset)

    def is_in(self, file: os.stat_result) -> bool:
        """Whether this position is in that file."""
        return (self.device, self.inode) == (file.st_dev, file.st_ino)


class Kept(NamedTuple):
    """A rotated file: the time of its rotation in seconds since 1970, and its size in bytes.

    The name may have a later time, because names always increase, even if the clock is set back.
    """

    path: Path
    moment: float
    size: int


def kept_files(directory: Path) -> list[Kept]:
    """Return the rotated files, the oldest first."""
    found = []
    for path in directory.glob(ROTATED):
        if (named := rotation_time(path.name)) and path.suffix != PART:
            with contextlib.suppress(FileNotFoundError):
                seen = path.lstat()  # st_ctime: the time of the rename
                moment = min(named.timestamp(), seen.st_ctime)
                found.append(Kept(path, moment, seen.st_size))
    return sorted(found)


def new_name(directory: Path) -> Path:
    """Return the name for a file that is rotated now. It sorts after all others."""
    moment = datetime.now(UTC)
    if names := [named for name in os.listdir(directory) if (named := rotation_time(name))]:
        moment = max(moment, max(names) + timedelta(microseconds=1))
    return directory / rotated_name(moment)


def open_directory(directory: Path, group: int | None) -> None:
    """Make the directory, or check the existing one. Raises LogError if it is not safe, OSError."""
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
                f"{directory}: other users than root may write there (owner {found.st_uid}, "
                f"mode {found.st_mode & 0o7777:04o}), and could replace the log's files",
                hint=f"chown root and chmod {_DIRECTORY_MODE:o} it, or set another log.dir",
            ) from None


def _give(directory: Path, group: int) -> None:
    """Give the existing files of this user to a group."""
    for path in [directory, *directory.glob(ROTATED)]:
        with contextlib.suppress(OSError):
            found = path.lstat()
            if found.st_gid != group and found.st_uid == os.geteuid():
                os.chown(path, -1, group, follow_symlinks=False)
            if path == directory and found.st_mode & 0o050 != 0o050:
                path.chmod(stat.S_IMODE(found.st_mode) | 0o050)


def open_live(path: Path, group: int | None, *, new: bool = False) -> int:
    """Open a file for appending, and lock it, so that no other daemon writes it.

    Raises InUseError if another daemon has it, LogError if the file may be another user's, OSError.
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
    """Check that a file belongs to this user alone, lock it, and set its group and mode."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
        raise LogError(
            f"{path}: not a file of this daemon's alone (owner {found.st_uid}, "
            f"{found.st_nlink} names, mode {found.st_mode:o}): it is not written to",
            hint="move it away, or set another log.dir",
        )
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUseError(
            f"{path}: another qmond writes this log", hint="set another log.dir for this one"
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
    """Whether a path leads to this open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except OSError:
        return False


def last_line(fd: int, size: int) -> dict[str, object]:
    """Return the last line in the first `size` bytes of a file; {} if it is not a JSON object."""
    tail = os.pread(fd, min(size, _STEP), max(0, size - _STEP))
    return _parsed(tail.rstrip(b"\n").rpartition(b"\n")[2])


def last_line_of(path: Path) -> dict[str, object]:
    """Return the last line of a rotated file, or {}. Raises OSError."""
    with path.open("rb") as file:
        if path.suffix == PLAIN:
            return last_line(file.fileno(), os.fstat(file.fileno()).st_size)
        tail = b""
        for chunk in chunks(file, path.suffix):
            tail = (tail + chunk)[-_STEP:]
    return _parsed(tail.rstrip(b"\n").rpartition(b"\n")[2])


def chunks(file: IO[bytes], suffix: str, size: int = _STEP) -> Iterator[bytes]:
    """Yield the content of a file in chunks of `size` bytes, decompressed if its suffix says so.

    Raises OSError, also if compressed data are damaged.
    """
    content, damaged = file, tuple[type[Exception], ...]()
    if suffix == ".gz":
        content, damaged = GzipFile(fileobj=file), (EOFError, zlib.error)  # type: ignore[assignment] # only read from
    elif suffix == ".zst":
        import zstandard  # noqa: PLC0415 - only for such a file

        content = zstandard.ZstdDecompressor().stream_reader(file, closefd=False)
        damaged = (zstandard.ZstdError,)
    try:
        while chunk := content.read(size):
            yield chunk
    except damaged as error:
        raise OSError(errno.EBADMSG, f"damaged: {error}") from error


def recover(fd: int, path: Path) -> str:
    """Make the file end with a complete line; returns a message, or "". Raises OSError.

    A crash may cut off the last line. A power failure may leave zeros or garbage in its place. What
    is not a line is moved to a file of its own, or removed if there is no space for that.
    """
    size = os.fstat(fd).st_size
    whole = _whole(fd, size)
    if whole == size:
        return ""
    rest = os.pread(fd, _STEP, whole)
    if len(rest) == size - whole and _parsed(rest):
        os.write(fd, b"\n")
        return "the last line had no newline; it was added"
    aside = new_name(path.parent).with_suffix(".torn")
    try:
        _set_aside(fd, whole, size, aside)
        where = f"were moved to {aside.name}"
    except OSError as error:
        aside.unlink(missing_ok=True)
        where = f"were removed, because they could not be moved to a file: {error.strerror}"
    os.ftruncate(fd, whole)
    return f"the last {size - whole} bytes were not a complete line; they {where}"


def _set_aside(fd: int, begin: int, end: int, path: Path) -> None:
    torn = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        os.fchown(torn, -1, os.fstat(fd).st_gid)
        while begin < end:
            begin += os.sendfile(torn, fd, begin, end - begin)
    finally:
        os.close(torn)


def _whole(fd: int, size: int) -> int:
    """Return the offset of the end of the last line that is a JSON object."""
    for end in _ends(fd, size):
        if end == 0 or last_line(fd, end):
            return end
    return 0


def _ends(fd: int, size: int) -> Iterator[int]:
    """Yield the offsets of the ends of lines, the last one first, and 0 at last."""
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
    """Parse a line; returns {} if it is not a JSON object."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
