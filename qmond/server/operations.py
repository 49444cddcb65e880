"""The operations of the socket that have one answer: their arguments, and who may use them.

`tail` and `stop` are no part of this: a connection has them itself.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from qmond.errors import RequestError
from qmond.server.access import Peer, Rights

__all__ = ["Answer", "Handler", "Operation", "forest", "log_level"]

_LEVELS: Final = ("debug", "info", "warning", "error")
_DEPTH: Final = 100
"""How deep processes stand in one another in an answer: parsers of JSON have a maximum."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in JSON; `truncated` where the whole would have been too long."""

    text: bytes
    truncated: bool = False


Handler = Callable[[Mapping[str, Any], Peer, Rights], Awaitable[Answer]]
"""It is given a request's arguments, who asks, and what that one may."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a client can ask for, by the request's `op`; `control` where it is for root alone."""

    answer: Handler
    arguments: tuple[str, ...] = ()
    control: bool = False


def log_level(args: Mapping[str, Any]) -> str:
    """Return the level of this process' own messages, after setting it where one is given."""
    logger = logging.getLogger("qmond")
    if (level := args.get("level")) is not None:
        if level not in _LEVELS:
            raise RequestError("BadArgument", f"level: one of {', '.join(_LEVELS)} is needed")
        logger.setLevel(level.upper())
    return logging.getLevelName(logger.getEffectiveLevel()).lower()


def forest(processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the answer to `tree`: processes with their `children`, roots on top.

    A process that would stand too deep stands on top, too. Its `ppid` tells where it belongs.
    """
    nodes = {process["pid"]: process | {"children": []} for process in processes}
    roots: list[dict[str, Any]] = []
    below: dict[int, list[dict[str, Any]]] = {}
    for node in nodes.values():
        if node["ppid"] in nodes and node["ppid"] != node["pid"]:
            below.setdefault(node["ppid"], []).append(node)
        else:
            roots.append(node)
    placed: set[int] = set()
    for start in (roots, nodes.values()):  # a process in no root's tree is in a circle
        for root in tuple(start):
            if root["pid"] not in placed:
                if start is not roots:
                    roots.append(root)
                _grow(root, below, roots, placed)
    return roots


def _grow(
    root: dict[str, Any],
    below: dict[int, list[dict[str, Any]]],
    roots: list[dict[str, Any]],
    placed: set[int],
) -> None:
    """Put the descendants of a root under it."""
    waiting = [(root, 1)]
    placed.add(root["pid"])
    while waiting:
        node, depth = waiting.pop()
        for child in below.get(node["pid"], ()):
            if child["pid"] in placed:
                continue
            placed.add(child["pid"])
            (node["children"] if depth < _DEPTH else roots).append(child)
            waiting.append((child, depth + 1 if depth < _DEPTH else 1))
