"""What core and front tell each other beside lines: short messages, each a line.

The front asks `{"id":…,"op":…,"args":{…}}` and tells each second how it is: `{"beat":{…}}`. The
core says `KIND ID JSON`: `ok`, `cut` (an answer that had to be shorter) or `error`; `settings`, and
`finish` at the end. The core takes what comes for a stranger's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

__all__ = [
    "OPS",
    "REQUEST_MAX",
    "Beat",
    "Question",
    "Told",
    "beat",
    "parse",
    "question",
    "tell",
    "told",
]

REQUEST_MAX: Final = 4096
"""Bytes of a message of the front."""
OPS: Final = frozenset(
    ["follow", "tree", "status", "ps", "config", "metrics", "rotate", "reload", "log-level"]
)
_MOST: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class Question:
    """What the front asks."""

    id: int
    op: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beat:
    """How the front is: its clients, what they did not get, whether anybody wants lines."""

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
    if type(number) is not int or not 0 <= number < _MOST:
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
        if type(row[name]) is not int or not 0 <= row[name] < _MOST:
            raise ValueError(f"{name} is no number")
    return Beat(row["clients"], row["dropped"], row["follow"] is True)


def question(asked: Question) -> bytes:
    """Return the line that asks."""
    return orjson.dumps({"id": asked.id, "op": asked.op, "args": asked.args}) + b"\n"


def beat(figures: Beat) -> bytes:
    """Return the line that tells how the front is."""
    row = {"clients": figures.clients, "dropped": figures.dropped, "follow": figures.follow}
    return orjson.dumps({"beat": row}) + b"\n"


@dataclass(frozen=True, slots=True)
class Told:
    """What the core says; `text` is JSON."""

    kind: str
    id: int
    text: bytes


def tell(kind: str, number: int = 0, text: bytes = b"null") -> bytes:
    """Return the line by which the core says something."""
    return b"%b %d %b\n" % (kind.encode(), number, text)


def told(line: bytes) -> Told:
    """Parse what the core says. Raises ValueError."""
    kind, number, text = line.split(b" ", 2)
    return Told(kind.decode(), int(number), text)
