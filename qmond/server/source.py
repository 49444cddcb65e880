"""Where a connection has its lines and answers from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from qmond.server.feed import LiveStart
from qmond.server.operations import Operation

__all__ = ["Log", "Source"]


class Log(NamedTuple):
    """Where the log's directory is: by a path, and a descriptor that a reader needs for it."""

    path: str
    fd: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What the front gives to its clients.

    `operations` has what can be asked beside events, by the name in a request's `op`. `about` says
    who the daemon is. `dropped` makes a DROPPED line from a count. `follow` has lines come, and
    returns where they begin; `tree` does the same with a process' descendants.
    """

    operations: Mapping[str, Operation]
    about: Callable[[], Mapping[str, Any]]
    dropped: Callable[[int], bytes]
    log: Log
    follow: Callable[[], Awaitable[LiveStart]]
    tree: Callable[[int], Awaitable[LiveStart]]
