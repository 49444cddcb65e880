"""The messages of a looker, and their checks: it reads hostile data, so it is not trusted.

Each message is one JSON object. Bytes are in it as Latin-1 text, which keeps every byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from qmond.events.records import ARGV_MAX, COMM_SIZE, PARENTS_MAX

__all__ = [
    "LINKS_MAX",
    "MESSAGE_MAX",
    "OUTCOMES",
    "PATH_MAX",
    "RINGS_MAX",
    "ROWS_MAX",
    "Description",
    "Outline",
    "Seen",
    "Words",
    "load",
    "parse_found",
    "parse_outcome",
    "parse_outline",
    "parse_words",
    "text",
]

MESSAGE_MAX: Final = 1 << 17
"""Bytes of a message: enough for the longest path and command line, with each byte escaped."""
PATH_MAX: Final = 4096
ROWS_MAX: Final = 256
"""The most processes in one message of a scan."""
RINGS_MAX: Final = 4096
"""The most descriptors of a process that are checked for io_uring."""
LINKS_MAX: Final = 8
"""The most descriptors of a probe: a link and an event for each of four functions."""
OUTCOMES: Final = ("counted", "none", "unsafe", "static", "refused")
"""Outcomes of a probe; `none`: the process has no C library yet, or has ended."""

_PID_MAX: Final = 1 << 22
_UID_MAX: Final = (1 << 32) - 1
_TICKS_MAX: Final = 1 << 53


class Seen(NamedTuple):
    """A process that a scan has found; `start` is in clock ticks since boot."""

    pid: int
    ppid: int
    start: int
    uid: int


@dataclass(frozen=True, slots=True)
class Outline:
    """What can be read of a process without its memory; `start` is in clock ticks since boot."""

    comm: bytes
    ppid: int
    start: int
    uid: int
    exe: bytes
    cgroup: bytes | None
    parents: tuple[tuple[int, bytes], ...]
    rings: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """What is in the memory of a process: its command line, and the path passed to execve."""

    argv: bytes
    filename: bytes | None


@dataclass(frozen=True, slots=True)
class Description:
    """A process; `words` is None if its memory could not be read."""

    outline: Outline
    words: Words | None


def text(data: bytes) -> str:
    """Return bytes as the text that is in a message."""
    return data.decode("latin-1")


def load(data: bytes) -> dict[str, Any]:
    """Parse a message. Raises ValueError."""
    message = orjson.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message must be an object")
    return message


def parse_found(rows: object) -> list[Seen]:
    """Parse one message of a scan. Raises ValueError."""
    found = []
    for row in _list(rows, ROWS_MAX):
        pid, ppid, start, uid = _list(row, 4, least=4)
        found.append(
            Seen(
                _integer(pid, _PID_MAX, least=1),
                _integer(ppid, _PID_MAX),
                _integer(start, _TICKS_MAX),
                _integer(uid, _UID_MAX),
            )
        )
    return found


def parse_outline(data: object) -> Outline:
    """Parse the first message of a description. Raises ValueError."""
    comm, ppid, start, uid, exe, cgroup, parents, rings = _members(
        data, ("comm", "ppid", "start", "uid", "exe", "cgroup", "parents", "rings")
    )
    return Outline(
        comm=_bytes(comm, 64),
        ppid=_integer(ppid, _PID_MAX),
        start=_integer(start, _TICKS_MAX),
        uid=_integer(uid, _UID_MAX),
        exe=_bytes(exe, PATH_MAX),
        cgroup=None if cgroup is None else _bytes(cgroup, PATH_MAX),
        parents=tuple(_parents(parents)),
        rings=tuple(_integer(fd, 1 << 30) for fd in _list(rings, RINGS_MAX)),
    )


def parse_words(data: object) -> Words | None:
    """Parse the second message of a description. Raises ValueError."""
    if data is None:
        return None
    argv, filename = _members(data, ("argv", "filename"))
    return Words(
        argv=_bytes(argv, ARGV_MAX),
        filename=None if filename is None else _bytes(filename, PATH_MAX),
    )


def parse_outcome(message: Mapping[str, Any], links: int) -> str:
    """Parse the outcome of a probe that came with `links` descriptors. Raises ValueError."""
    (outcome,) = _members(message, ("outcome",))
    if outcome not in OUTCOMES or (outcome == "counted") != (links > 0):
        raise ValueError("not an outcome of a probe")
    return str(outcome)


def _parents(rows: object) -> Iterable[tuple[int, bytes]]:
    for row in _list(rows, PARENTS_MAX):
        pid, comm = _list(row, 2, least=2)
        yield _integer(pid, _PID_MAX), _bytes(comm, 4 * COMM_SIZE)


def _members(data: object, names: tuple[str, ...]) -> list[Any]:
    if not isinstance(data, dict) or set(data) != {*names}:
        raise ValueError("an object with the wrong members")
    return [data[name] for name in names]


def _list(data: object, most: int, *, least: int = 0) -> list[Any]:
    if not isinstance(data, list) or not least <= len(data) <= most:
        raise ValueError("not a list, or of the wrong length")
    return data


def _integer(value: object, most: int, *, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError("not a number, or out of range")
    return value


def _bytes(value: object, most: int) -> bytes:
    if not isinstance(value, str) or len(value) > most:
        raise ValueError("not a text, or too long")
    return value.encode("latin-1")
