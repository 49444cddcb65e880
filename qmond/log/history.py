"""Read the log: lines from a number, a time or the beginning on, through all its files.

Files may be renamed, compressed or removed meanwhile. An open file is read to its end. If lines are
read by number, a GAP stands for lines that are gone.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final, Self

from qmond.log.files import Position, chunks
from qmond.lognames import COMPRESSED, FRESH, LIVE, PLAIN, rotated_files

__all__ = ["History", "number_of", "time_of", "time_text"]

_log = logging.getLogger(__name__)

_TRIES: Final = 1000
_CHUNK: Final = 1 << 20
_PAGE: Final = 1 << 14
_NO_END: Final = 1 << 63
# In JSON, a quote in a text has a backslash before it: no guest can forge these.
_SEQ: Final = re.compile(rb',"seq":(\d+)')
_TIME: Final = re.compile(rb',"time":"([^"]+)"')
_YEAR_9999: Final = 253402300799.0
"""The last second of that year, in seconds since 1970."""


def number_of(line: bytes) -> int:
    """Return the `seq` of a line, or 0."""
    found = _SEQ.search(line)
    return int(found[1]) if found else 0


def time_of(line: bytes) -> bytes:
    """Return the `time` of a line, or nothing."""
    found = _TIME.search(line)
    return found[1] if found else b""


def time_text(moment: float) -> bytes:
    """Return a time in seconds since 1970 as lines have it: texts of times compare as times.

    Times before 1970 or after 9999 would not: they are as that year's first or last second.
    """
    seconds, us = divmod(round(min(max(moment, 0), _YEAR_9999) * 1_000_000), 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode() + b".%06dZ" % us


class History:
    """The files of a log as they are now, up to an end.

    That is the line before the one whose number is `following`. Only where lines have no numbers,
    it is a position: the number of an inode may be used again.
    """

    def __init__(
        self, directory: Path, end: Position | None = None, following: int | None = None
    ) -> None:
        """List the files. Raises OSError."""
        live = _live(directory)
        files = [*map(_File, rotated_files(directory)), live]
        last = end if end and following is None else live.place(_NO_END)
        # the last file may have been rotated meanwhile: newer files are left out
        at = next((at for at, file in enumerate(files) if file.has(last)), None)
        self._most = _NO_END if at is None else last.offset
        self._files = files if at is None else files[: at + 1]
        if live not in self._files:
            live.close()
        self._following = following or _NO_END
        self._newest = [] if following is None else self._of_this_boot()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def lines(self) -> Iterator[bytes]:
        """Yield all complete lines, with their newlines, the oldest first."""
        return self._read(self._files)

    def backwards(self) -> Iterator[Iterator[bytes]]:
        """Yield the lines of each file, the newest file first."""
        for at in reversed(range(len(self._files))):
            yield self._read(self._files[at : at + 1])

    def since(self, moment: float) -> Iterator[bytes]:
        """Yield the lines from a time on, in seconds since 1970."""
        text = time_text(moment)

        def is_before(line: bytes) -> bool:
            return b"" < time_of(line) < text

        begun = False
        for line in self._read(self._from(is_before)):
            begun = begun or not is_before(line)
            if begun:
                yield line

    def numbers(self, first: int, last: int = _NO_END) -> Iterator[bytes]:
        """Yield the lines of this boot with numbers `first` to `last`, and GAP for missing ones.

        A file has lines of one boot only, so its numbers rise.
        """
        chosen = self._of_this_boot(first)
        if chosen and 0 < number_of(chosen[0].first() or b"") <= first:
            chosen[0].skip_to(first)
        expected = first
        for line in self._read(chosen):
            number = number_of(line)
            if number > last:
                break
            if number < expected:
                continue
            if number > expected:
                yield _gap(expected, number - 1)
            expected = number + 1
            yield line
        if expected <= last < _NO_END:
            yield _gap(expected, last)

    def oldest(self) -> int | None:
        """Return the number of the oldest line of this boot, or None."""
        later: int | None = None
        for file in reversed(self._files):
            number = number_of(file.first() or b"")
            if later and number > later:
                return 1  # of an earlier boot: all lines of this one are there
            later = number or later
        return later

    def _of_this_boot(self, first: int = 1) -> list[_File]:
        """Return the files of this boot, from that on which may have the line of a number."""
        chosen: list[_File] = []
        later = _NO_END
        for file in reversed(self._files):
            number = number_of(file.first() or b"")
            if number > later:
                break
            later = number or later
            chosen.insert(0, file)
            if 0 < number <= first:
                break
        return chosen

    def _from(self, is_before: Callable[[bytes], bool]) -> list[_File]:
        """Return the last file whose first line is before the wanted ones, and all newer files."""
        chosen: list[_File] = []
        for file in reversed(self._files):
            first = file.first()
            if first is not None:
                chosen.insert(0, file)
                if is_before(first):
                    break
        return chosen

    def _read(self, files: list[_File]) -> Iterator[bytes]:
        for file in files:
            is_last = file is self._files[-1]
            lines = file.lines(self._most if is_last else _NO_END)
            yield from _before(self._following, lines) if file in self._newest else lines
            if not is_last:
                file.close()


def _before(number: int, lines: Iterator[bytes]) -> Iterator[bytes]:
    return itertools.takewhile(lambda line: number_of(line) < number, lines)


def _live(directory: Path) -> _File:
    """Open the live file, which does not exist for a moment in a rotation. Raises OSError."""
    live = _File(directory / LIVE)
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            live.open()
            return live
        if not (directory / FRESH).exists():
            break
        time.sleep(0.001)
    live.open()
    return live


class _File:
    """One file of the log, compressed or not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._begin = 0

    def open(self) -> None:
        self._file = self._path.open("rb")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def place(self, offset: int) -> Position:
        """Return a position in this file, which must be open."""
        assert self._file is not None  # noqa: S101 - for the type checker
        return Position.at(os.fstat(self._file.fileno()), offset)

    def has(self, place: Position) -> bool:
        """Whether a position is in this file. If it is, the file stays open."""
        if self._file is not None:
            return place.is_in(os.fstat(self._file.fileno()))
        with contextlib.suppress(FileNotFoundError):
            if place.is_in(self._path.stat()):
                self.open()
                return self.has(place)
        return False

    def first(self) -> bytes | None:
        """Return the first line, or None if the file is empty or gone."""
        was_open = self._file is not None
        line = next(self.lines(_NO_END, _PAGE), None)
        if not was_open:  # there may be more files than a process can have open
            self.close()
        return line

    def lines(self, most: int, chunk_size: int = _CHUNK) -> Iterator[bytes]:
        """Yield the complete lines in the first `most` bytes; nothing if the file is gone.

        If the file is damaged, a warning is logged, and the lines end there.
        """
        if self._file is None and not self._find():
            return
        assert self._file is not None  # noqa: S101 - for the type checker
        self._file.seek(self._begin)
        left, rest = most - self._begin, b""
        try:
            for chunk in chunks(self._file, self._path.suffix, chunk_size):
                *lines, rest = (rest + chunk[:left]).split(b"\n")
                for line in lines:
                    yield line + b"\n"
                left -= len(chunk)
                if left <= 0:
                    break
        except OSError as error:
            _log.warning("%s cannot be read to its end: %s", self._path, error.strerror)

    def skip_to(self, number: int) -> None:
        """Make `lines` begin shortly before the line with a number; not in a compressed file."""
        if self._file is None and not self._find():
            return
        assert self._file is not None  # noqa: S101 - for the type checker
        if self._path.suffix != PLAIN:
            return
        begin, end = 0, os.fstat(self._file.fileno()).st_size
        while end - begin > _CHUNK:
            middle = (begin + end) // 2
            at = middle + os.pread(self._file.fileno(), _CHUNK, middle).find(b"\n") + 1
            found = number_of(os.pread(self._file.fileno(), _CHUNK, at).partition(b"\n")[0])
            if at == middle or not found:
                break
            begin, end = (at, end) if found <= number else (begin, middle)
        self._begin = begin

    def _find(self) -> bool:
        packed = (Path(f"{self._path}{suffix}") for suffix in COMPRESSED.values())
        for path in (self._path, *packed):
            with contextlib.suppress(FileNotFoundError):
                self._path = path
                self.open()
                return True
        return False


def _gap(first: int, last: int) -> bytes:
    us = time.monotonic_ns() // 1000
    moment = b"%d.%06d" % divmod(us, 1_000_000)
    return b'{"ts":%b,"event":"GAP","from_seq":%d,"to_seq":%d}\n' % (moment, first, last)
