"""The arguments of `tail`: what each may be.

A parser takes a value of JSON. It returns what a Selection has of it, or raises ValueError with
what was expected.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from qmond.events.architectures import ARCHITECTURES
from qmond.events.groups import resolve
from qmond.events.table import FIELDS, NUMBER
from qmond.units import parse_seconds

__all__ = ["ARGUMENTS", "KEYS", "STARTS", "Events"]

KEYS: Final = frozenset(field.key for field in FIELDS)
"""Every key that a line can have."""

_CLASS: Final = re.compile(r"\[!?+\]?+[^\]]*\]")
"""A class of characters in a glob: fnmatch(3)."""
_LAST_MAX: Final = 100_000
_PID_MAX: Final = 1 << 22  # PID_MAX_LIMIT: include/linux/threads.h
_PIDS_MAX: Final = 1024
_WHERE_MAX: Final = 4096


class Events(NamedTuple):
    """The events that are asked for, and those of them that are asked for by their own name."""

    chosen: list[str]
    named: frozenset[str]


def _events(value: object) -> Events:
    words = _strings(value, "event names")
    if not words:
        raise ValueError("an empty list; a list of event names is needed")
    return Events(
        resolve(words), frozenset(word.upper() for word in words if word.upper() in NUMBER)
    )


def _arch(value: object) -> frozenset[str]:
    names = [name.lower() for name in _strings(value, "guest architectures")]
    for name in names:
        if name not in ARCHITECTURES:
            close = " or ".join(get_close_matches(name, ARCHITECTURES))
            raise ValueError(
                f"unknown: {name}{f', perhaps {close}' if close else ''}; "
                f"there are {', '.join(ARCHITECTURES)}; `where` takes any other: "
                f'arch == "{name}"'
            )
    return frozenset(names)


def _strings(value: object, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"a list of {what} is needed")
    if "" in value:
        raise ValueError(f"an empty name; a list of {what} is needed")
    return value


def _number(least: int, most: int, what: str) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{what} is needed, from {least} to {most}")
        return value

    return parse


def _pids(value: object) -> frozenset[int]:
    if not isinstance(value, list) or not all(type(pid) is int for pid in value):
        raise ValueError("a list of process IDs is needed")
    if len(value) > _PIDS_MAX:
        raise ValueError(
            f"at most {_PIDS_MAX} process IDs; `tree` names a process and all below it"
        )
    if wrong := [pid for pid in value if not 1 <= pid <= _PID_MAX]:
        raise ValueError(f"a process ID is from 1 to {_PID_MAX}, not {wrong[0]}")
    return frozenset(value)


def _glob(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 4096:
        raise ValueError("a glob is needed, such as sh or */bin/sh")
    if value.endswith("/") or "\0" in value:
        raise ValueError("no path of a program ends with a slash, or has a NUL byte")
    if "[" in _CLASS.sub("", value):
        raise ValueError("a [ has no ] after it; [[] stands for the character itself")
    return value


def _where(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _WHERE_MAX:
        raise ValueError(f"a CEL expression of at most {_WHERE_MAX} characters is needed")
    return value


def _moment(value: object) -> Callable[[float], float]:
    """Return a function that gives the moment by the time that it is now."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            age = parse_seconds(value)
            return lambda now: now - age
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                return lambda _now: moment.timestamp()
    raise ValueError("a time such as 2026-11-23T08:30:00Z, or an age such as 5m, is needed")


def _fields(value: object) -> frozenset[str]:
    found = _strings(value, "keys")
    if wrong := [key for key in found if key not in KEYS]:
        raise ValueError(f"unknown: {', '.join(wrong)}; there are {', '.join(sorted(KEYS))}")
    return frozenset(found)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false is needed")
    return value


ARGUMENTS: Final[dict[str, Callable[[Any], Any]]] = {
    "events": _events,
    "pids": _pids,
    "tree": _number(1, _PID_MAX, "a process ID"),
    "arch": _arch,
    "guest": _glob,
    "where": _where,
    "fields": _fields,
    "from_seq": _number(1, (1 << 63) - 1, "a line's number"),
    "since": _moment,
    "last": _number(0, _LAST_MAX, "a number of lines"),
    "until": _moment,
    "follow": _truth,
}
STARTS: Final = ("from_seq", "since", "last")
"""The arguments that say where in the past to begin."""
