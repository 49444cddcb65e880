"""The socket's protocol, without the socket: bytes in, requests out, and back.

Newline-delimited JSON in the manner of QMP: the server greets, a request carries an `id` that its
answer repeats, an error has a class for programs and a message for people, and unknown keys of a
message are ignored. What each argument of `tail` may be is in arguments.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from qmond.errors import ProtocolError, RequestError
from qmond.events.schema import keys
from qmond.events.table import NAMES, NUMBER, PUBLIC, STREAM_ONLY
from qmond.events.tree import NEEDED
from qmond.server.arguments import ARGUMENTS, STARTS, Events

__all__ = [
    "ANSWER_MAX",
    "EVERYTHING",
    "LINE_MAX",
    "PROTOCOL",
    "UNTIL_GRACE",
    "LineReader",
    "Request",
    "Selection",
    "answer",
    "answer_json",
    "check_arguments",
    "described",
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
UNTIL_GRACE: Final = 1.0
"""Seconds by which a line may come after one with a later time."""


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
    left. `since` and `until` are in seconds since 1970, `last` in lines.
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
    until: float | None = None
    follow: bool = True

    @property
    def of_the_past(self) -> bool:
        """Whether lines of the log are wanted, too."""
        return self.from_seq is not None or self.since is not None or self.last is not None

    @property
    def is_plain(self) -> bool:
        """Whether only live lines are wanted, chosen by event and process alone."""
        others = (self.tree, self.arch, self.guest, self.where, self.fields, self.until)
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
    request = Request(op=op, id=message.get("id"), args=args)
    try:
        orjson.dumps(_identified(request.id))
    except orjson.JSONEncodeError as error:  # what can be read can be too deep to be written
        raise RequestError("BadRequest", "id: this is nested too deeply") from error
    return request


def parse_selection(args: dict[str, Any], configured: int, now: float) -> Selection:
    """Parse the arguments of `tail`; `configured` has the events that there are, as bits.

    `now` is the time in seconds since 1970, which an age counts from. Raises RequestError.
    """
    check_arguments("tail", args, ARGUMENTS)
    values: dict[str, Any] = {}
    for name, parse in ARGUMENTS.items():
        if args.get(name) is not None:
            try:
                values[name] = parse(args[name])
            except ValueError as error:
                raise RequestError("BadArgument", f"{name}: {error}") from error
    for name in {"since", "until"} & values.keys():
        values[name] = values[name](now)
    events: Events | None = values.pop("events", None)
    selection = Selection(mask=_mask(events, configured), **values)
    if fault := _fault(selection, events, configured, now):
        raise RequestError("BadArgument", fault)
    if selection.until is not None and selection.until + UNTIL_GRACE <= now:
        return replace(selection, follow=False)
    return selection


def _fault(selection: Selection, events: Events | None, configured: int, now: float) -> str:
    """Return what is wrong with arguments that are right one by one, or nothing."""
    starts = [name for name in STARTS if getattr(selection, name) is not None]
    if len(starts) > 1:
        return f"{', '.join(STARTS)}: only one of them can be the start"
    if not selection.follow and not starts:
        return f"follow: false needs one of {', '.join(STARTS)}"
    if selection.until is not None:
        if selection.since is not None and selection.until < selection.since:
            return "until: this is before since"
        if not starts and selection.until < now:
            return f"until: a time that is past needs one of {', '.join(STARTS)}"
    off = [name for name in NAMES if name in NEEDED and not configured >> NUMBER[name] & 1]
    if selection.tree is not None and off:
        return f"tree: {', '.join(off)} are switched off in the daemon's config"
    chosen = events.chosen if events else ()
    on = [name for name in chosen if selection.mask >> NUMBER[name] & 1]
    for argument, (able, what) in _ABLE.items():
        if on and getattr(selection, argument) is not None and able.isdisjoint(on):
            return f"{argument}: no line of {', '.join(on)} has {what}"
    return ""


def check_arguments(op: str, args: Iterable[str], known: Iterable[str]) -> None:
    """Refuse arguments that an operation does not take. Raises RequestError."""
    unknown, names = sorted(set(args) - set(known)), ", ".join(known)
    if unknown:
        takes = f"takes {names}" if names else "takes no arguments"
        raise RequestError("BadArgument", f"{', '.join(unknown)}: {op} {takes}")


def _mask(events: Events | None, configured: int) -> int:
    """Return the events as bits; those that are off may be there only by a group's name."""
    if events is None:
        return EVERYTHING.mask
    on = [name for name in events.chosen if name in STREAM_ONLY or configured >> NUMBER[name] & 1]
    off = [name for name in events.chosen if name not in on]
    if refused := [name for name in off if name in events.named or not on]:
        raise RequestError(
            "BadArgument", f"events: switched off in the daemon's config: {', '.join(refused)}"
        )
    return sum(1 << NUMBER[name] for name in STREAM_ONLY.union(on))


_OF_A_PROCESS: Final = frozenset(
    event.name
    for event in PUBLIC
    if event.is_recorded or any(field.key == "pid" for field in event.fields)
)
_OF_A_GUEST: Final = frozenset(
    event.name for event in PUBLIC if any(field.key == "guest" for field in keys(event))
)
_ABLE: Final = {
    "pids": (_OF_A_PROCESS, "a process"),
    "tree": (_OF_A_PROCESS, "a process"),
    "arch": (_OF_A_GUEST, "an architecture"),
    "guest": (_OF_A_GUEST, "a guest"),
}
"""The events that an argument can match, and what the lines of all others lack."""


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
    return orjson.dumps(_identified(request_id) | described(error)) + b"\n"


def described(error: ProtocolError) -> dict[str, Any]:
    """Return what a refusal says of an error."""
    if not isinstance(error, RequestError):
        return {"error": {"class": "ProtocolError", "message": error.args[0]}}
    found = {
        "class": error.kind,
        "message": error.args[0],
        "line": error.line,
        "column": error.column,
    }
    return {"error": {key: value for key, value in found.items() if value is not None}}


def farewell(request_id: object, reason: str) -> bytes:
    """Return the line after which no more events follow to a request."""
    return orjson.dumps(_identified(request_id) | {"end": {"reason": reason}}) + b"\n"


def _identified(request_id: object) -> dict[str, object]:
    return {} if request_id is None else {"id": request_id}
