"""The socket's protocol, without the socket: bytes in, requests out, and back.

Newline-delimited JSON in the manner of QMP: the server greets, a request carries an `id` that its
answer repeats, an error has a class for programs and a message for people, and unknown keys of a
message are ignored. What a verb takes is declared here, for both ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from qmond.errors import ProtocolError, RequestError
from qmond.events import NUMBER, PUBLIC

__all__ = [
    "CAPABILITIES",
    "EVERYTHING",
    "LINE_MAX",
    "PROTOCOL",
    "LineReader",
    "Request",
    "Selection",
    "answer",
    "greeting",
    "parse_request",
    "parse_selection",
    "refusal",
]

PROTOCOL: Final = 1
CAPABILITIES: Final = ("tail", "status", "ps")
LINE_MAX: Final = 65536
"""Bytes: the longest request, its newline included."""


class LineReader:
    """Cuts a stream into lines. One that is too long is told once, and skipped up to its end."""

    def __init__(self, most: int = LINE_MAX) -> None:
        self._most = most
        self._held = b""
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """Yield each line that is complete now, without its newline; None for one too long."""
        *lines, rest = (self._held + data).split(b"\n")
        self._held = b""
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
            self._held = rest


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a client."""

    op: str
    id: object = None
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a client wants: bit N of `mask` is event N; no `pids` means every process."""

    mask: int
    pids: frozenset[int] | None = None


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
        raise RequestError(
            "BadRequest", f"op: a string is needed, one of {', '.join(CAPABILITIES)}"
        )
    if not isinstance(args, dict):
        raise RequestError("BadRequest", "args: an object is needed")
    return Request(op=op, id=message.get("id"), args=args)


def parse_selection(args: dict[str, Any], configured: int) -> Selection:
    """Parse the arguments of `tail`; `configured` has the events that there are, as bits.

    Raises RequestError.
    """
    unknown = set(args) - {"events", "pids"}
    if unknown:
        raise RequestError(
            "BadArgument", f"{', '.join(sorted(unknown))}: tail takes events and pids"
        )
    events, pids = args.get("events"), args.get("pids")
    mask = EVERYTHING.mask
    if events is not None:
        if not isinstance(events, list) or not all(isinstance(name, str) for name in events):
            raise RequestError("BadArgument", "events: a list of event names is needed")
        names = {event.name for event in PUBLIC}
        wrong = [name for name in events if name not in names]
        if wrong:
            raise RequestError(
                "BadArgument",
                f"events: unknown: {', '.join(wrong)}; there are {', '.join(sorted(names))}",
            )
        off = [name for name in events if not configured >> NUMBER[name] & 1 and name != "DROPPED"]
        if off:
            raise RequestError(
                "BadArgument", f"events: switched off in the daemon's config: {', '.join(off)}"
            )
        mask = sum(1 << NUMBER[name] for name in set(events))
    if pids is not None and not (isinstance(pids, list) and all(type(pid) is int for pid in pids)):
        raise RequestError("BadArgument", "pids: a list of process IDs is needed")
    return Selection(mask=mask, pids=None if pids is None else frozenset(pids))


def greeting(version: str, boot_id: str) -> bytes:
    """Return the server's first line."""
    about = {
        "version": version,
        "protocol": PROTOCOL,
        "boot_id": boot_id,
        "capabilities": CAPABILITIES,
    }
    return orjson.dumps({"qmond": about}) + b"\n"


def answer(request: Request, result: object) -> bytes:
    """Return the line that answers a request."""
    return orjson.dumps(_identified(request.id) | {"ok": result}) + b"\n"


def refusal(request_id: object, error: ProtocolError) -> bytes:
    """Return the line that refuses a request."""
    kind = error.kind if isinstance(error, RequestError) else "ProtocolError"
    described = {"class": kind, "message": error.args[0]}
    return orjson.dumps(_identified(request_id) | {"error": described}) + b"\n"


def _identified(request_id: object) -> dict[str, object]:
    return {} if request_id is None else {"id": request_id}
