"""The socket's protocol, without the socket: bytes in, requests out, and back.

Newline-delimited JSON in the manner of QMP: the server greets, a request carries an `id` that its
answer repeats, an error has a class for programs and a message for people, and unknown keys of a
message are ignored. The arguments of `tail` are declared here, for both ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson

from qmond.errors import ProtocolError, RequestError
from qmond.events.table import FIELDS, NAMES, NUMBER, PUBLIC, STREAM_ONLY
from qmond.events.tree import NEEDED
from qmond.units import parse_seconds

__all__ = [
    "ANSWER_MAX",
    "EVERYTHING",
    "KEYS",
    "LAST_MAX",
    "LINE_MAX",
    "PIDS_MAX",
    "PROTOCOL",
    "WHERE_MAX",
    "LineReader",
    "Request",
    "Selection",
    "answer",
    "answer_json",
    "check_arguments",
    "farewell",
    "greeting",
    "parse_request",
    "parse_selection",
    "refusal",
]

PROTOCOL: Final = 1
LINE_MAX: Final = 65536
"""Bytes: the longest request, its newline included."""
ANSWER_MAX: Final = 4 << 20
"""Bytes of an answer: a list that would be longer is cut, and the answer says `truncated`."""
LAST_MAX: Final = 100_000
PIDS_MAX: Final = 1024
WHERE_MAX: Final = 4096
KEYS: Final = frozenset(field.key for field in FIELDS)
"""Every key that a line can have."""


class LineReader:
    """Cuts a stream into lines. A line that is too long is reported once, and skipped."""

    def __init__(self, most: int = LINE_MAX) -> None:
        self._most = most
        self._partial = b""
        self._skipping = False

    @property
    def begun(self) -> bool:
        """Whether a line has begun and is not complete."""
        return self._skipping or self._partial != b""

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """Yield each line that is complete now, without its newline; None for one too long."""
        *lines, rest = (self._partial + data).split(b"\n")
        self._partial = b""
        for line in lines:
            if self._skipping:
                self._skipping = False
            else:
                yield line if len(line) < self._most else None
        if self._skipping:
            return
        if len(rest) >= self._most:
            self._skipping = True
            yield None
        else:
            self._partial = rest


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a client."""

    op: str
    id: object = None
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a client wants, and from when on.

    Bit N of `mask` is event N. A field that is None excludes nothing. `tree` is a process whose
    descendants are meant too, `guest` a glob, `where` a CEL expression, `fields` the keys that are
    left. `since` is in seconds since 1970, `last` in lines.
    """

    mask: int
    pids: frozenset[int] | None = None
    tree: int | None = None
    arch: frozenset[str] | None = None
    guest: str | None = None
    where: str | None = None
    fields: frozenset[str] | None = None
    from_seq: int | None = None
    since: float | None = None
    last: int | None = None
    follow: bool = True

    @property
    def of_the_past(self) -> bool:
        """Whether lines of the log are wanted, too."""
        return self.from_seq is not None or self.since is not None or self.last is not None

    @property
    def is_plain(self) -> bool:
        """Whether only live lines are wanted, chosen by event and process alone."""
        others = (self.tree, self.arch, self.guest, self.where, self.fields)
        return not self.of_the_past and all(other is None for other in others)


EVERYTHING: Final = Selection(mask=(1 << len(NUMBER)) - 1)


def parse_request(line: bytes) -> Request:
    """Parse one line of a client. Raises RequestError."""
    try:
        message = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise RequestError("BadJson", f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise RequestError("BadRequest", 'a request is an object such as {"op":"status"}')
    op, args = message.get("op"), message.get("args", {})
    if not isinstance(op, str):
        raise RequestError("BadRequest", "op: a string is needed, such as status")
    if not isinstance(args, dict):
        raise RequestError("BadRequest", "args: an object is needed")
    return Request(op=op, id=message.get("id"), args=args)


def parse_selection(args: dict[str, Any], configured: int, now: float) -> Selection:
    """Parse the arguments of `tail`; `configured` has the events that there are, as bits.

    `now` is the time in seconds since 1970, which an age counts from. Raises RequestError.
    """
    check_arguments("tail", args, _ARGUMENTS)
    values: dict[str, Any] = {}
    for name, parse in _ARGUMENTS.items():
        if args.get(name) is not None:
            try:
                values[name] = parse(args[name])
            except ValueError as error:
                raise RequestError("BadArgument", f"{name}: {error}") from error
    events: list[str] | None = values.pop("events", None)
    if "since" in values:
        values["since"] = values["since"](now)
    if sum(name in values for name in _STARTS) > 1:
        raise RequestError(
            "BadArgument", f"{', '.join(_STARTS)}: only one of them can be the start"
        )
    selection = Selection(mask=_mask(events, configured), **values)
    if not selection.follow and not selection.of_the_past:
        raise RequestError("BadArgument", f"follow: false needs one of {', '.join(_STARTS)}")
    off = [name for name in NAMES if name in NEEDED and not configured >> NUMBER[name] & 1]
    if selection.tree is not None and off:
        names = ", ".join(off)
        raise RequestError("BadArgument", f"tree: {names} are switched off in the daemon's config")
    return selection


def check_arguments(op: str, args: Iterable[str], known: Iterable[str]) -> None:
    """Refuse arguments that an operation does not take. Raises RequestError."""
    unknown, names = sorted(set(args) - set(known)), ", ".join(known)
    if unknown:
        takes = f"takes {names}" if names else "takes no arguments"
        raise RequestError("BadArgument", f"{', '.join(unknown)}: {op} {takes}")


def _mask(events: list[str] | None, configured: int) -> int:
    if events is None:
        return EVERYTHING.mask
    off = [name for name in events if not configured >> NUMBER[name] & 1]
    off = [name for name in off if name not in STREAM_ONLY]
    if off:
        raise RequestError(
            "BadArgument", f"events: switched off in the daemon's config: {', '.join(off)}"
        )
    return sum(1 << NUMBER[name] for name in STREAM_ONLY.union(events))


# ---- arguments of tail: each raises ValueError with what was expected --------------------------


def _events(value: object) -> list[str]:
    names = [event.name for event in PUBLIC]
    found = _strings(value, "event names")
    if wrong := [name for name in found if name not in names]:
        raise ValueError(f"unknown: {', '.join(wrong)}; there are {', '.join(sorted(names))}")
    return found


def _strings(value: object, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"a list of {what} is needed")
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
    if len(value) > PIDS_MAX:
        raise ValueError(f"at most {PIDS_MAX} process IDs; `tree` names a process and all below it")
    return frozenset(value)


def _glob(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 4096:
        raise ValueError("a glob is needed, such as */sh")
    return value


def _where(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= WHERE_MAX:
        raise ValueError(f"a CEL expression of at most {WHERE_MAX} characters is needed")
    return value


def _since(value: object) -> Callable[[float], float]:
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


_PID_MAX: Final = 1 << 22  # PID_MAX_LIMIT: include/linux/threads.h
_ARGUMENTS: Final[dict[str, Callable[[Any], Any]]] = {
    "events": _events,
    "pids": _pids,
    "tree": _number(1, _PID_MAX, "a process ID"),
    "arch": lambda value: frozenset(_strings(value, "guest architectures")),
    "guest": _glob,
    "where": _where,
    "fields": _fields,
    "from_seq": _number(1, (1 << 63) - 1, "a line's number"),
    "since": _since,
    "last": _number(0, LAST_MAX, "a number of lines"),
    "follow": _truth,
}
_STARTS: Final = ("from_seq", "since", "last")


# ---- the server's lines ------------------------------------------------------------------------


def greeting(about: Mapping[str, Any]) -> bytes:
    """Return the server's first line; `about` stands beside the protocol's number."""
    return orjson.dumps({"qmond": {"protocol": PROTOCOL, **about}}) + b"\n"


def answer(request: Request, result: object) -> bytes:
    """Return the line that answers a request."""
    return orjson.dumps(_identified(request.id) | {"ok": result}) + b"\n"


def answer_json(request: Request, text: bytes, *, truncated: bool) -> bytes:
    """Return the line that answers a request; its result is JSON already."""
    head = b'"id":%b,' % orjson.dumps(request.id) if request.id is not None else b""
    return b'{%b"ok":%b%b}\n' % (head, text, b',"truncated":true' if truncated else b"")


def refusal(request_id: object, error: ProtocolError) -> bytes:
    """Return the line that refuses a request."""
    kind = error.kind if isinstance(error, RequestError) else "ProtocolError"
    described = {"class": kind, "message": error.args[0]}
    return orjson.dumps(_identified(request_id) | {"error": described}) + b"\n"


def farewell(request_id: object, reason: str) -> bytes:
    """Return the line after which no more events follow to a request."""
    return orjson.dumps(_identified(request_id) | {"end": {"reason": reason}}) + b"\n"


def _identified(request_id: object) -> dict[str, object]:
    return {} if request_id is None else {"id": request_id}
