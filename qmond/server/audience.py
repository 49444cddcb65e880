"""What the clients of one socket have in common: settings, what they get, and who gets what."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from qmond.events.content import without_content
from qmond.server.access import Peer, Rights
from qmond.server.broadcast import Pids
from qmond.server.feed import Joint
from qmond.server.forkserver import ForkServer
from qmond.server.operations import Operation
from qmond.server.protocol import EVERYTHING, Selection
from qmond.server.settings import FrontSettings
from qmond.server.shares import Shares

__all__ = ["Batch", "Choice", "Choices", "Clients", "Connected", "Log", "Source"]


class Batch(Protocol):
    """Lines that come together."""

    def __len__(self) -> int:
        """How many there are."""

    @property
    def seq(self) -> int:
        """The number of the line that comes after them."""

    @property
    def data(self) -> memoryview:
        """All of them; valid only now."""

    def select(self, mask: int, pids: Pids | None) -> tuple[bytes, int]:
        """Return those of some events and processes, and their number."""


class Log(NamedTuple):
    """Where the log's directory is: by a path, and a descriptor that a reader needs for it."""

    path: str
    fd: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What the front gives to its clients.

    `operations` has what can be asked beside events, by the name in a request's `op`; `about` says
    who the daemon is; `dropped` makes a DROPPED line from a count. `follow` has lines come, and
    returns where they begin; `tree` the same with a process' descendants.
    """

    operations: Mapping[str, Operation]
    about: Callable[[], Mapping[str, Any]]
    dropped: Callable[[int], bytes]
    log: Log
    follow: Callable[[], Awaitable[Joint]]
    tree: Callable[[int], Awaitable[Joint]]


class Choice:
    """Events and processes that somebody wants; who wants the same has the same one."""

    def __init__(self, selection: Selection) -> None:
        self._all = selection == EVERYTHING
        self._mask = selection.mask
        self._pids = None if selection.pids is None else Pids(selection.pids)

    def of(self, batch: Batch, *, content: bool) -> tuple[bytes, int]:
        """Return the chosen lines of a batch, and their number."""
        if self._all:
            lines, count = bytes(batch.data), len(batch)
        else:
            lines, count = batch.select(self._mask, self._pids)
        return (lines if content else without_content(lines)), count


class Choices:
    """The choices that there are."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[Selection, Choice] = weakref.WeakValueDictionary()

    def __getitem__(self, selection: Selection) -> Choice:
        found = self._known.get(selection)
        if found is None:
            found = self._known[selection] = Choice(selection)
        return found


class Connected(Protocol):
    """One who is connected."""

    peer: Peer
    dropped: int


class Clients(Protocol):
    """Those who are connected, and what holds for all of them."""

    settings: FrontSettings
    source: Source
    shares: Shares
    """Of the loop's time, in seconds."""
    readers: dict[asyncio.Task[None], int]
    """Those whose process has not ended yet, also of clients that are gone; whose they are."""

    fork_server: ForkServer

    def enter(self, client: Any) -> str:  # noqa: ANN401 - a client, which knows this class
        """Take one more; returns why not, where there is no room."""

    def leave(self, client: Any) -> None:  # noqa: ANN401 - as above
        """Forget one."""

    def has_no_reader_for(self, client: Any) -> str:  # noqa: ANN401 - as above
        """Return why a client cannot have a reader; nothing where it can."""

    def rights(self, peer: Peer) -> Rights:
        """Return what a peer may."""

    def choose(self, selection: Selection) -> Choice:
        """Return the choice that a selection stands for."""
