"""The messages between core and front, beside the lines of events: each message is a line.

The front asks questions, `{"id":…,"op":…,"args":{…}}`. It sends its figures, `{"beat":{…}}`, every
few seconds and when they change. The core sends `KIND ID JSON`. KIND is `ok`, `cut` (an answer that
had to be shorter), `error`, `settings`, or `finish` at the end. The core trusts no message of the
front.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

__all__ = [
    "OPS",
    "REQUEST_MAX",
    "Beat",
    "CoreMessage",
    "Question",
    "beat",
    "parse",
    "parse_core_message",
    "question",
    "tell",
]

REQUEST_MAX: Final = 4096
"""Bytes of a message of the front."""
OPS: Final = frozenset(
    ["follow", "tree", "status", "ps", "config", "metrics", "rotate", "reload", "log-level"]
)
_NUMBER_MAX: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the front."""

    id: int
    op: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beat:
    """The front's figures: its clients, the lines they did not get, whether anybody wants lines."""

    clients: int
    dropped: int
    follow: bool


def parse(line: bytes) -> Question | Beat:
    """Parse a message of the front. Raises ValueError where it is none."""
    message = orjson.loads(line)
    if not isinstance(message, dict):
        raise ValueError("no object")
    if "beat" in message:
        return _beat(message["beat"])
    number, op, args = message.get("id"), message.get("op"), message.get("args")
    if type(number) is not int or not 0 <= number < _NUMBER_MAX:
        raise ValueError("no question")
    if not isinstance(op, str) or op not in OPS:
        raise ValueError("there is no such question")
    if not isinstance(args, dict):
        raise ValueError("no arguments")
    return Question(number, op, args)


def _beat(row: object) -> Beat:
    if not isinstance(row, dict) or set(row) != {"clients", "dropped", "follow"}:
        raise ValueError("no beat")
    for name in ("clients", "dropped"):
        if type(row[name]) is not int or not 0 <= row[name] < _NUMBER_MAX:
            raise ValueError(f"{name} is no number")
    return Beat(row["clients"], row["dropped"], row["follow"] is True)


def question(asked: Question) -> bytes:
    """Return the line that asks a question."""
    return orjson.dumps({"id": asked.id, "op": asked.op, "args": asked.args}) + b"\n"


def beat(figures: Beat) -> bytes:
    """Return the line that has the front's figures."""
    row = {"clients": figures.clients, "dropped": figures.dropped, "follow": figures.follow}
    return orjson.dumps({"beat": row}) + b"\n"


@dataclass(frozen=True, slots=True)
class CoreMessage:
    """A message of the core; `text` is JSON."""

    kind: str
    id: int
    text: bytes


def tell(kind: str, number: int = 0, text: bytes = b"null") -> bytes:
    """Return the line of a message of the core."""
    return b"%b %d %b\n" % (kind.encode(), number, text)


def parse_core_message(line: bytes) -> CoreMessage:
    """Parse a message of the core. Raises ValueError where it is none."""
    kind, number, text = line.split(b" ", 2)
    return CoreMessage(kind.decode(), int(number), text)
