"""Events out of files: logs, compressed or not, what `qmonctl record` wrote, or standard input.

What is no event, and what a later version told, is said on standard error by file and line, and
counted. It ends nothing.
"""

from __future__ import annotations

import gzip
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import orjson

from qmond.errors import QmondError
from qmond.events.fields import Field
from qmond.events.schema import shape
from qmond.events.table import COMMON, HEAD, PUBLIC
from qmond.lognames import COMPRESSED, LIVE, rotated_files

__all__ = ["Reading", "files_of", "read"]

Event = dict[str, Any]
Lines = Iterable[bytes]

_TOLD: Final = 5
"""How many bad lines of a file are told one by one."""
_SECONDS_MAX: Final = 1e10
_CHUNK: Final = 1 << 16  # what it unpacks to is many times as large
_ARCHIVES: Final = (".tar.gz", ".tgz")
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


_OF_ANY: Final = {
    "pid": _TYPES["integer"],  # -1 where an event is nobody's
    **{field.key: _types(field) for field in (*HEAD, *COMMON)},
}


def _shapes() -> dict[str, dict[str, tuple[type, ...]]]:
    """Return by event what its keys' values are."""
    return {
        event.name: _OF_ANY | {field.key: _types(field) for field in event.fields}
        for event in PUBLIC
    }


class Reading:
    """Reads events, and keeps the count of what is not as this version knows it.

    `tell` is given each finding, as one line of text.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self.bad: Counter[str] = Counter()
        """By file: lines that were left out."""
        self.unknown: Counter[str] = Counter()
        """Events and keys (`READ.key`) of a later version: how many lines have them."""
        self._tell = tell
        self._shapes = _shapes()

    def events(self, paths: Iterable[Path]) -> Iterator[Event]:
        """Yield the events of files; a folder means its logs, `-` standard input.

        Raises QmondError where a file cannot be read.
        """
        for path in files_of(paths):
            try:
                with _opened(path) as lines:
                    for number, line in enumerate(lines, 1):
                        event = self.parse(line, path, number)
                        if event is not None:
                            yield event
            except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
                reason = getattr(error, "strerror", None) or error
                raise QmondError(f"{path}: {reason}") from error
        self._sum_up()

    def parse(self, line: bytes, path: Path, number: int) -> Event | None:
        """Return a line's event, or None for what is none."""
        try:
            event = self._checked(line, path, number)
        except ValueError as error:
            self.bad[str(path)] += 1
            if self.bad[str(path)] <= _TOLD:
                self._tell(f"{path}:{number}: {error}; left out")
            return None
        return event

    def _checked(self, line: bytes, path: Path, number: int) -> Event:
        """Return a line's event. Raises ValueError where it is none."""
        try:
            event: Event = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            whole = line.endswith(b"\n")
            raise ValueError("no JSON" if whole else "cut off before its end") from error
        if not isinstance(event, dict):
            raise ValueError("no JSON object")
        name, ts = event.get("event") or event.get("evt"), event.get("ts")
        if not isinstance(name, str) or not isinstance(ts, int | float):
            raise ValueError("no event: it has no `ts`, or no `event`")
        if not 0 <= ts < _SECONDS_MAX:
            raise ValueError("`ts` is no time in seconds")
        shapes = self._shapes.get(name, _OF_ANY)
        for key, value in event.items():
            if not isinstance(value, shapes.get(key, object)):
                raise ValueError(f"{name!r}: `{key}` is no {shapes[key][0].__name__}")
        if shapes is _OF_ANY:
            self._unknown(path, number, name, f"the event {name!r}")
        elif not event.keys() <= shapes.keys():
            for key in sorted(event.keys() - shapes.keys()):
                self._unknown(path, number, f"{name}.{key}", f"the key {key!r} of {name}")
        return event

    def _unknown(self, path: Path, number: int, name: str, what: str) -> None:
        if name not in self.unknown and len(self.unknown) >= 100:
            name = "more"  # whoever makes names up shall not fill the memory
        elif name not in self.unknown:
            self._tell(f"{path}:{number}: {what} is not known to this version")
        self.unknown[name] += 1

    def _sum_up(self) -> None:
        for path, count in self.bad.items():
            if count > _TOLD:
                self._tell(f"{path}: {count} lines were left out in all")
        if self.unknown:
            counts = ", ".join(f"{count} {name!r}" for name, count in self.unknown.most_common(10))
            self._tell(f"lines with what is not known to this version: {counts}")


def read(paths: Iterable[Path]) -> Iterator[Event]:
    """Yield the events of files, and tell of what is none on standard error. Raises QmondError."""
    return Reading(lambda said: sys.stderr.write(f"qmonctl: {said}\n")).events(paths)


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Return the files that are meant; those of a folder oldest first. Raises QmondError."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        old = rotated_files(path)
        live = [
            file
            for suffix in ("", *COMPRESSED.values())
            if (file := path / f"{LIVE}{suffix}").exists()
        ]
        if not old and not live:
            raise QmondError(
                f"{path}: there is no {LIVE} in it",
                hint="give a log, a folder of logs, or what `qmonctl record` wrote",
            )
        found += old + live[:1]
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Lines]:
    if str(path) == "-":
        yield sys.stdin.buffer
    elif path.name.endswith(_ARCHIVES):
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if member.isfile() and Path(member.name).name == LIVE:
                    file = archive.extractfile(member)
                    assert file is not None  # noqa: S101 - it is a file
                    yield file
                    return
        raise QmondError(f"{path}: there is no {LIVE} in it")
    else:
        with path.open("rb") as raw:
            if path.suffix == ".gz":
                with gzip.open(raw) as unpacked:
                    yield unpacked
            elif path.suffix == ".zst":
                yield _zstd_lines(raw)
            else:
                yield raw


def _zstd_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a zstd file. Raises EOFError where its end is missing, OSError."""
    try:
        import zstandard  # noqa: PLC0415 - only where there is such a file
    except ImportError as error:
        raise QmondError(
            "a .zst file needs the Python package zstandard",
            hint="pip install zstandard, or give it unpacked: zstd -dc FILE | qmonctl … -",
        ) from error

    rest, frame = b"", None
    while chunk := file.read(_CHUNK):
        while chunk:  # what is behind a frame is the next one
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
