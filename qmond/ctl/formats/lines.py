"""Reading events from logs (also compressed), from records of `qmonctl record`, and from stdin.

A line that is not an event is reported with its file and line number, counted, and left out. Events
and keys of a later version are reported and counted, too, but not left out.
"""

from __future__ import annotations

import gzip
import os
import stat
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import orjson

from qmond.ctl.runs import ARCHIVES
from qmond.errors import QmondError
from qmond.events.fields import Field
from qmond.events.schema import shape
from qmond.events.table import COMMON, HEAD, PUBLIC
from qmond.lognames import COMPRESSED, LIVE, rotated_files

__all__ = ["Reading", "files", "read"]

Event = dict[str, Any]
Lines = Iterable[bytes]

_REPORTS_MAX: Final = 5
"""How many bad lines of a file are reported one by one."""
_UNKNOWN_MAX: Final = 100
"""How many unknown events and keys are counted by name."""
_SECONDS_MAX: Final = 1e10
_CHUNK: Final = 1 << 16  # compressed bytes; unpacked, they are many times as many
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
"""What a value of a JSON Schema's type is here."""


def _types(field: Field) -> tuple[type, ...]:
    found = shape(field)
    if "type" in found:
        names = [found["type"]] if isinstance(found["type"], str) else found["type"]
        return tuple(kind for name in names for kind in _TYPES[name])
    return tuple({type(value) for value in found.get("enum", [found.get("const")])})


_COMMON_TYPES: Final = {
    "pid": _TYPES["integer"],  # -1: the event belongs to no process
    **{field.key: _types(field) for field in (*HEAD, *COMMON)},
}


def _types_by_event() -> dict[str, dict[str, tuple[type, ...]]]:
    """Return the types of the values, by event and key."""
    return {
        event.name: _COMMON_TYPES | {field.key: _types(field) for field in event.fields}
        for event in PUBLIC
    }


class Reading:
    """Reads events, and counts the lines that this version does not know.

    `report` is called with each problem, as one line of text.
    """

    def __init__(self, report: Callable[[str], object]) -> None:
        self.bad: Counter[str] = Counter()
        """Lines that were left out, by file."""
        self.unknown: Counter[str] = Counter()
        """Lines with an event or key (`READ.key`) of a later version, by its name."""
        self._report = report
        self._types = _types_by_event()

    def events(self, paths: Iterable[Path]) -> Iterator[Event]:
        """Yield the events of files. A folder stands for the logs in it, `-` for standard input.

        A file that still grows is read as far as it is when its turn begins. Raises QmondError if
        a file cannot be read, and at the end if a file that was named has lines, but no event.
        """
        foreign: list[Path] = []
        for source in _sources(paths):
            path, number, found = source.path, 0, False
            try:
                with _opened(source) as lines:
                    for number, line in enumerate(lines, 1):
                        event = self.parse(line, path, number)
                        if event is not None:
                            found = True
                            yield event
            except FileNotFoundError as error:
                if not source.is_of_folder:
                    raise QmondError(f"{path}: {error.strerror}") from error
                self._report(f"{path}: removed meanwhile; left out")
            except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
                reason = getattr(error, "strerror", None) or error
                raise QmondError(f"{path}: {reason}") from error
            if number and not found and not source.is_of_folder:
                foreign.append(path)
        self._report_totals()
        if foreign:
            raise QmondError(f"{foreign[0]}: no line of it is an event")

    def parse(self, line: bytes, path: Path, number: int) -> Event | None:
        """Return the event of a line, or None if it is not an event.

        `path` and `number` (of the line, from 1) are for reports.
        """
        try:
            event = self._checked(line, path, number)
        except ValueError as error:
            self.bad[str(path)] += 1
            if self.bad[str(path)] <= _REPORTS_MAX:
                self._report(f"{path}:{number}: {error}; left out")
            return None
        return event

    def _checked(self, line: bytes, path: Path, number: int) -> Event:
        """Return the event of a line. Raises ValueError if it is not an event."""
        try:
            event: Event = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            complete = line.endswith(b"\n")
            raise ValueError("not JSON" if complete else "cut off before its end") from error
        if not isinstance(event, dict):
            raise ValueError("not a JSON object")
        name, ts = event.get("event") or event.get("evt"), event.get("ts")
        if not isinstance(name, str) or not isinstance(ts, int | float):
            raise ValueError("not an event: it has no `ts`, or no `event`")
        if not 0 <= ts < _SECONDS_MAX:
            raise ValueError("`ts` is not a time in seconds")
        types = self._types.get(name, _COMMON_TYPES)
        for key, value in event.items():
            if not isinstance(value, types.get(key, object)):
                raise ValueError(f"{name!r}: `{key}` is not of type {types[key][0].__name__}")
        if types is _COMMON_TYPES:
            self._count_unknown(path, number, name, f"the event {name!r}")
        elif not event.keys() <= types.keys():
            for key in sorted(event.keys() - types.keys()):
                self._count_unknown(path, number, f"{name}.{key}", f"the key {key!r} of {name}")
        return event

    def _count_unknown(self, path: Path, number: int, name: str, what: str) -> None:
        if name not in self.unknown and len(self.unknown) >= _UNKNOWN_MAX:
            name = "more"  # invented names must not fill the memory
        elif name not in self.unknown:
            self._report(f"{path}:{number}: {what} is not known to this version")
        self.unknown[name] += 1

    def _report_totals(self) -> None:
        for path, count in self.bad.items():
            if count > _REPORTS_MAX:
                self._report(f"{path}: {count} lines were left out in all")
        if self.unknown:
            counts = ", ".join(f"{count} {name!r}" for name, count in self.unknown.most_common(10))
            self._report(f"lines with events or keys not known to this version: {counts}")


def read(paths: Iterable[Path]) -> Iterator[Event]:
    """Yield the events of files. Problems with lines go to standard error. Raises QmondError."""
    return Reading(lambda problem: sys.stderr.write(f"qmonctl: {problem}\n")).events(paths)


def files(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    """Yield what stat() says of the files that read() would open. Raises QmondError."""
    for source in _sources(paths):
        try:
            if str(source.path) == "-":
                with suppress(OSError):  # it is closed, or a test's
                    yield os.fstat(sys.stdin.fileno())
            else:
                yield _renamed(source.path).stat()
        except OSError as error:
            if not source.is_of_folder:
                raise QmondError(f"{source.path}: {error.strerror}") from error


class _Source(NamedTuple):
    """A file to read. The live one of a folder is open, so that a rotation does not take it."""

    path: Path
    live: IO[bytes] | None = None
    is_of_folder: bool = False


def _sources(paths: Iterable[Path]) -> Iterator[_Source]:
    """Yield the files. A folder stands for the logs in it. Raises QmondError."""
    for path in paths:
        try:
            if path.is_dir():
                yield from _logs(path)
            else:
                yield _Source(path)
        except OSError as error:
            raise QmondError(f"{path}: {error.strerror}") from error


def _logs(folder: Path) -> Iterator[_Source]:
    """Yield the logs in a folder, the oldest first. Raises QmondError if it has none, OSError."""
    live, rotated = _listed(folder)
    if live is not None and live.live is not None:
        found = os.fstat(live.live.fileno())
        if any(_is(source.path, found) for source in rotated):
            live.live.close()
            live = None  # it was rotated before the others were listed
    if not rotated and live is None:
        raise QmondError(
            f"{folder}: it contains no {LIVE}",
            hint="give a log, a folder of logs, or what `qmonctl record` wrote",
        )
    try:
        yield from rotated
        if live is not None:
            yield live
    finally:
        if live is not None and live.live is not None:
            live.live.close()


def _listed(folder: Path) -> tuple[_Source | None, list[_Source]]:
    """Return the live log of a folder, or None, and the rotated ones; each line is in one of them.

    So the live one is opened first. If it is rotated, compressed and removed meanwhile, all is done
    again.
    """
    while True:
        live = _live(folder)
        rotated = [_Source(path, is_of_folder=True) for path in rotated_files(folder)]
        if live is None or live.live is None or os.fstat(live.live.fileno()).st_nlink:
            return live, rotated
        live.live.close()


def _live(folder: Path) -> _Source | None:
    for suffix in ("", *COMPRESSED.values()):
        path = folder / f"{LIVE}{suffix}"
        with suppress(FileNotFoundError):
            return _Source(path, path.open("rb"), is_of_folder=True)
    return None


def _is(path: Path, file: os.stat_result) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), file)
    return False


@contextmanager
def _opened(source: _Source) -> Iterator[Lines]:
    path = source.path
    if str(path) == "-":
        yield sys.stdin.buffer
    elif path.name.endswith(ARCHIVES):
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if member.isfile() and Path(member.name).name == LIVE:
                    file = archive.extractfile(member)
                    assert file is not None  # noqa: S101 - it is a file
                    yield file
                    return
        raise QmondError(f"{path}: it contains no {LIVE}")
    else:
        with source.live or _open_rotated(path) as raw:
            if raw.name.endswith(".gz"):
                with gzip.open(raw) as unpacked:
                    yield unpacked
            elif raw.name.endswith(".zst"):
                yield _zstd_lines(raw)
            else:
                yield _plain_lines(raw)


def _renamed(path: Path) -> Path:
    """Return the file, or the compressed one that has taken its place."""
    names = (path.with_name(path.name + suffix) for suffix in ("", *COMPRESSED.values()))
    return next((name for name in names if name.exists()), path)


def _open_rotated(path: Path) -> IO[bytes]:
    """Open a file, or the compressed one that has taken its place. Raises OSError."""
    for suffix in ("", *COMPRESSED.values()):
        with suppress(FileNotFoundError):
            return path.with_name(path.name + suffix).open("rb")
    return path.open("rb")


def _plain_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines that begin before the end that the file has now; of a pipe, all."""
    found = os.fstat(file.fileno())
    left = found.st_size if stat.S_ISREG(found.st_mode) else None
    for line in file:
        if left is not None:
            if left <= 0:
                break
            left -= len(line)
        yield line


def _zstd_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a zstd file. Raises EOFError if the file is incomplete, OSError."""
    try:
        import zstandard  # noqa: PLC0415 - only for such a file
    except ImportError as error:
        raise QmondError(
            "a .zst file needs the Python package zstandard",
            hint="pip install zstandard, or unpack the file: zstd -dc FILE | qmonctl … -",
        ) from error

    rest, frame = b"", None
    while chunk := file.read(_CHUNK):
        while chunk:  # another frame may follow
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                *lines, rest = (rest + frame.decompress(chunk)).split(b"\n")
            except zstandard.ZstdError as error:
                raise OSError(str(error)) from error
            yield from (line + b"\n" for line in lines)
            chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if rest:
        yield rest
    if frame is not None:
        raise EOFError("the compressed file was cut off before its end")
