"""The log as it was: lines from a number, a moment or the beginning on, through all its files.

Files may be renamed, compressed or removed while they are read: what is open is read to its end,
and what is gone is told, as GAP, where lines are asked for by their numbers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final, Self

from qmond.log.files import FRESH, LIVE, PART, Position, chunks

__all__ = ["History", "number_of"]

_log = logging.getLogger(__name__)

_TRIES: Final = 1000
_CHUNK: Final = 1 << 20
_PAGE: Final = 1 << 14
_NO_END: Final = 1 << 63
# A text in JSON has no quote without a backslash before it: no guest can write these.
_SEQ: Final = re.compile(rb',"seq":(\d+)')
_TIME: Final = re.compile(rb',"time":"([^"]+)"')


def number_of(line: bytes) -> int:
    """Return a line's `seq`, or 0."""
    found = _SEQ.search(line)
    return int(found[1]) if found else 0


class History:
    """The files of a log's directory, as they are at this moment, up to a place in it."""

    def __init__(self, directory: Path, end: Position | None = None) -> None:
        """Look at the files. Raises OSError."""
        live = _live(directory)
        names = {
            path.name.partition(".jsonl")[0]: path
            for path in directory.glob("events-*.jsonl*")
            if path.suffix != PART
        }
        files = [*(_File(names[stem]) for stem in sorted(names)), live]
        last = end or live.place(_NO_END)
        # it may have been renamed meanwhile, and others begun: they are no part of this
        at = next((at for at, file in enumerate(files) if file.has(last)), None)
        self._most = _NO_END if at is None else last.offset
        self._files = files if at is None else files[: at + 1]
        if live not in self._files:
            live.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def lines(self) -> Iterator[bytes]:
        """Yield all whole lines, with their newlines, oldest first."""
        return self._read(self._files)

    def backwards(self) -> Iterator[Iterator[bytes]]:
        """Yield the lines of each file, the newest file first."""
        for at in reversed(range(len(self._files))):
            yield self._read(self._files[at : at + 1])

    def since(self, moment: float) -> Iterator[bytes]:
        """Yield the lines from a moment on, in seconds since 1970."""
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)).encode()
        text += b".%06dZ" % (moment % 1 * 1_000_000)

        def is_before(line: bytes) -> bool:
            found = _TIME.search(line)
            return found is not None and found[1] < text

        begun = False
        for line in self._read(self._from(is_before)):
            begun = begun or not is_before(line)
            if begun:
                yield line

    def numbers(self, first: int, last: int = _NO_END) -> Iterator[bytes]:
        """Yield the lines of this boot with these numbers; a GAP says which are gone.

        Each file has lines of one boot alone, so that its numbers rise.
        """
        chosen: list[_File] = []
        later = _NO_END
        for file in reversed(self._files):
            number = number_of(file.first() or b"")
            if number > later:
                break  # of the boot before
            later = number or later
            chosen.insert(0, file)
            if 0 < number <= first:
                file.skip_to(first)
                break
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
        """Return the number of the first line of this boot that is still there."""
        later: int | None = None
        for file in reversed(self._files):
            number = number_of(file.first() or b"")
            if later and number > later:
                return 1  # of the boot before: this one's lines are all there
            later = number or later
        return later

    def _from(self, is_before: Callable[[bytes], bool]) -> list[_File]:
        """Return the files from the newest one on that begins before what is asked for."""
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
            if file is self._files[-1]:
                yield from file.lines(self._most)
            else:
                yield from file.lines(_NO_END)
                file.close()


def _live(directory: Path) -> _File:
    """Open the file that is written to; a rotation has none for a moment. Raises OSError."""
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
        """Return a place in a file that is open."""
        assert self._file is not None  # noqa: S101 - for the type checker
        return Position.at(os.fstat(self._file.fileno()), offset)

    def has(self, place: Position) -> bool:
        """Whether a place is in this file; then it is open from here on."""
        if self._file is not None:
            return place.is_in(os.fstat(self._file.fileno()))
        with contextlib.suppress(FileNotFoundError):
            if place.is_in(self._path.stat()):
                self.open()
                return self.has(place)
        return False

    def first(self) -> bytes | None:
        """Return its first line; None where it has none, or is gone."""
        was_open = self._file is not None
        line = next(self.lines(_NO_END, _PAGE), None)
        if not was_open:  # there may be more files than a process may have open
            self.close()
        return line

    def lines(self, most: int, chunk_size: int = _CHUNK) -> Iterator[bytes]:
        """Yield whole lines of the first bytes of the file; nothing where it is gone.

        One that is damaged ends there, and that is said.
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
        """Begin shortly before the line with a number, where it need not read all for that."""
        if self._file is None and not self._find():
            return
        assert self._file is not None  # noqa: S101 - for the type checker
        if self._path.suffix != ".jsonl":
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
        for path in (self._path, *(Path(f"{self._path}{suffix}") for suffix in (".zst", ".gz"))):
            with contextlib.suppress(FileNotFoundError):
                self._path = path
                self.open()
                return True
        return False


def _gap(first: int, last: int) -> bytes:
    us = time.monotonic_ns() // 1000
    moment = b"%d.%06d" % divmod(us, 1_000_000)
    return b'{"ts":%b,"event":"GAP","from_seq":%d,"to_seq":%d}\n' % (moment, first, last)
