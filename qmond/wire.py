"""The socket's protocol, as a client speaks it: its lines, and what a client says goes wrong.

docs/protocol.md describes it. There are no sockets here; `path`, the socket's, is for messages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from qmond.errors import ProtocolError, QmondError, RequestError

__all__ = [
    "DEFAULT_SOCKET",
    "LINE_MAX",
    "STOP_MAX",
    "answer",
    "check_timeout",
    "closed",
    "ended",
    "greeting",
    "hung_up",
    "in_use",
    "is_before",
    "is_end",
    "late",
    "request",
    "sendable",
    "socket_path",
    "too_long",
    "unreachable",
]

DEFAULT_SOCKET: Final = Path("/run/qmond/qmond.sock")
LINE_MAX: Final = 8 << 20
"""Bytes. The daemon sends no longer line: it cuts an answer at 4 MiB, and marks it as truncated."""
STOP_MAX: Final = 5.0
"""Seconds that the end of a tail that is left early may take."""
_PATH_MAX: Final = 107
"""Bytes of a socket's path, without the NUL byte: unix(7)."""
_TIMEOUT_MAX: Final = 1e9
"""Seconds. A socket takes no more than some centuries."""
_PROTOCOL: Final = 1
_MESSAGES: Final = (b'{"id":', b'{"end":', b'{"error":')
"""The beginnings of the lines that are not events; no event has one of these keys."""


def socket_path(path: str | os.PathLike[str] | None) -> Path:
    """Return where to connect to: `path`, $QMOND_SOCKET or DEFAULT_SOCKET.

    Raises QmondError for a path that no socket can have.
    """
    found = Path(path or os.environ.get("QMOND_SOCKET") or DEFAULT_SOCKET)
    if len(os.fsencode(found)) > _PATH_MAX:
        raise QmondError(f"{found}: path too long, at most {_PATH_MAX} bytes")
    return found


def check_timeout(seconds: float | None) -> None:
    """Raise TypeError or ValueError for a time-out that a socket cannot have."""
    told = f"timeout: a number of seconds above 0 is expected, or None, not {seconds!r}"
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
        raise TypeError(told)
    if seconds is not None and not 0 < seconds <= _TIMEOUT_MAX:
        raise ValueError(told)


# ---- what goes wrong -----------------------------------------------------------------------------


def unreachable(path: Path, error: OSError) -> QmondError:
    """Return the error for a socket that does not take the connection."""
    if isinstance(error, PermissionError):
        hint = "only root and the members of the daemon's group may connect: see `qmonctl doctor`"
    elif isinstance(error, ConnectionRefusedError) and not path.is_socket():
        return QmondError(f"{path}: not a socket")
    else:
        hint = "is the daemon running? `systemctl status qmond`, or start `qmond` as root"
    return QmondError(f"{path}: {error.strerror}", hint=hint)


def late(path: Path, seconds: float | None) -> ProtocolError:
    """Return the error of an answer that has not come in time."""
    why = "is it overloaded? See `journalctl -u qmond`"
    return ProtocolError(f"{path}: the daemon did not answer within {seconds:g} s", hint=why)


def hung_up(path: Path) -> ProtocolError:
    """Return the error for a connection that the daemon closed."""
    return ProtocolError(f"{path}: the daemon hung up")


def closed(path: Path) -> ProtocolError:
    """Return the error for a connection that the client closed."""
    return ProtocolError(f"{path}: this connection is closed")


def too_long(path: Path) -> ProtocolError:
    """Return the error for a line beyond LINE_MAX."""
    return ProtocolError(f"{path}: the daemon sent a line of more than {LINE_MAX >> 20} MiB")


def ended(path: Path) -> QmondError:
    """Return the error for reading on in a tail that a request has ended."""
    return QmondError(
        f"{path}: a later request on this connection ended the tail",
        hint="use a second client for requests while a tail runs",
    )


def in_use(path: Path, what: str) -> QmondError:
    """Return the error for a request while a thread or task waits for an answer or a line."""
    return QmondError(
        f"{path}: another {what} waits on this connection", hint=f"use a client for each {what}"
    )


# ---- lines ---------------------------------------------------------------------------------------


def request(number: int, op: str, args: dict[str, Any]) -> bytes:
    """Return a request; `number` is its `id`. An argument that is None is left out.

    Raises RequestError where a text cannot be sent, TypeError for a value of a wrong type.
    """
    given = {key: sendable(key, value) for key, value in args.items() if value is not None}
    for key, value in given.items():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:  # a lone surrogate, as of os.fsdecode
            raise RequestError("BadArgument", f"{key}: a text that is not valid UTF-8") from error
    return json.dumps({"id": number, "op": op, "args": given}).encode() + b"\n"


def sendable(key: str, value: Any) -> str | float | list[Any]:  # noqa: ANN401 - a caller's mistake
    """Return an argument as JSON can have it. Raises TypeError where it cannot."""
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime):
        raise TypeError(f"{key}: a text is expected, such as that of isoformat(), not a datetime")
    if not isinstance(value, Iterable):
        raise TypeError(f"{key}: a text, a number or a list is expected, not {value!r}")
    return list(value)


def greeting(path: Path, line: bytes) -> dict[str, Any]:
    """Return what the first line says. Raises ProtocolError if it is another protocol's."""
    about: dict[str, Any] = _message(path, line).get("qmond", {})
    if about.get("protocol") != _PROTOCOL:
        raise ProtocolError(
            f"{path}: this is not qmond, or not version {_PROTOCOL} of its protocol"
        )
    return about


def answer(path: Path, line: bytes, number: int) -> tuple[Any, bool]:
    """Return the answer to the request of this number, and whether the daemon cut it.

    Raises RequestError if the daemon refused, ProtocolError if the line is something else.
    """
    message = _message(path, line)
    if "ok" not in message or message.get("id") != number:
        raise ProtocolError(
            f"{path}: the daemon sent something else than the answer: {line[:100]!r}"
        )
    return message["ok"], message.get("truncated") is True


def is_before(path: Path, line: bytes, number: int) -> bool:
    """Whether a line belongs to an earlier request than that of this number: an event, an answer.

    Raises ProtocolError if it is not whole.
    """
    _check_whole(path, line)
    if not line.startswith(_MESSAGES):
        return True
    found = _parsed(path, line).get("id")
    return isinstance(found, int) and found < number


def is_end(path: Path, line: bytes) -> bool:
    """Whether a line ends the tail; the others are events.

    Raises RequestError or ProtocolError if the tail failed.
    """
    _check_whole(path, line)
    if not line.startswith(_MESSAGES):
        return False
    message = _message(path, line)
    if "end" not in message:
        raise ProtocolError(f"{path}: the daemon sent an answer in a tail: {line[:100]!r}")
    reason = message["end"].get("reason")
    if reason != "complete":
        raise ProtocolError(f"{path}: {reason}")
    return True


def _check_whole(path: Path, line: bytes) -> None:
    if not line:
        raise hung_up(path)
    if not line.endswith(b"\n"):
        if len(line) >= LINE_MAX:
            raise too_long(path)
        raise ProtocolError(f"{path}: the daemon hung up in the middle of a line")


def _message(path: Path, line: bytes) -> dict[str, Any]:
    """Return what a line says. Raises RequestError if that is an error."""
    message = _parsed(path, line)
    if "error" in message:
        raise RequestError.parse(message["error"])
    return message


def _parsed(path: Path, line: bytes) -> dict[str, Any]:
    if not line:
        raise hung_up(path)
    if len(line) >= LINE_MAX:
        raise too_long(path)
    try:
        message = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"{path}: the daemon sent a line that is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"{path}: the daemon sent a line that is not a JSON object")
    return message
