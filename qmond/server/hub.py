"""The clients of the socket: each gets the lines that it wants, and nothing waits for one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from typing import Final

from qmond.server.access import Peer, Rights, rights_of
from qmond.server.audience import Batch, Choice, Choices, Source
from qmond.server.connection import Client
from qmond.server.forkserver import ForkServer
from qmond.server.protocol import Selection
from qmond.server.settings import FrontSettings
from qmond.server.shares import Shares

__all__ = ["Hub"]

_FAREWELL: Final = 3
"""Seconds that clients have to take what is still theirs, at the end."""
_SHARE: Final = 0.25
"""Of the loop's time, for the requests of one user."""


class Hub:
    """The clients of one listening socket."""

    def __init__(self, settings: FrontSettings, source: Source) -> None:
        self.settings = settings
        self.source = source
        self.clients: set[Client] = set()
        self.readers: dict[asyncio.Task[None], int] = {}
        self.fork_server = ForkServer(() if source.log.fd is None else (source.log.fd,))
        self.shares = Shares(_SHARE, _SHARE)
        self._choices = Choices()
        self._dropped = 0  # by those that are gone
        self._server: asyncio.Server | None = None

    async def listen(self, listener: socket.socket) -> None:
        """Begin to serve. Raises OSError."""
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: Client(self), sock=listener, backlog=self.settings.max_clients
        )

    def configure(self, settings: FrontSettings) -> None:
        """Go by other settings, and groups, from here on: those who are connected, too."""
        self.settings = settings
        for client in tuple(self.clients):
            client.allow(self.rights(client.peer))

    # ---- lines ---------------------------------------------------------------------------------

    @property
    def follows(self) -> bool:
        """Whether there is anybody who wants lines."""
        return any(client.feed or client.choice for client in self.clients)

    def choose(self, selection: Selection) -> Choice:
        """Return the choice that a selection stands for."""
        return self._choices[selection]

    def broadcast(self, batch: Batch) -> None:
        """Hand a batch to every client that tails; the wanted lines are chosen once for equals."""
        chosen: dict[tuple[Choice, bool], tuple[bytes, int]] = {}
        for client in tuple(self.clients):
            if client.feed:
                client.feed.push(batch.data, batch.seq - len(batch), len(batch))
            elif client.choice is not None:
                key = client.choice, client.rights.content
                if key not in chosen:
                    chosen[key] = client.choice.of(batch, content=client.rights.content)
                client.push(*chosen[key])

    def miss(self, first: int, last: int) -> None:
        """Tell every client that tails of lines, by their numbers, that did not get here."""
        for client in tuple(self.clients):
            if client.feed:
                client.feed.leave_out(first, last)
            elif client.choice is not None:
                client.lost(last - first + 1)

    # ---- who is there --------------------------------------------------------------------------

    def enter(self, client: Client) -> str:
        """Take one more client; returns why not, where there is no room.

        Root has as many places as all, whoever else is there; each other user has a quarter.
        """
        most = self.settings.max_clients
        uid = client.peer.uid
        users = Counter(other.peer.uid for other in self.clients)
        if uid == 0 and users[0] >= most:
            return f"{most} of root are connected already"
        if uid != 0:
            others, kept = users.total() - users[0], max(1, most // 8)
            if others >= max(1, most - kept):
                return f"{others} are connected already"
            if users[uid] >= max(1, most // 4):
                return f"{users[uid]} of user {uid} are connected already"
        self.clients.add(client)
        return ""

    def leave(self, client: Client) -> None:
        """Forget a client."""
        if client in self.clients:
            self.clients.remove(client)
            self._dropped += client.dropped

    def has_no_reader_for(self, client: Client) -> str:
        """Return why a client cannot have a reader; nothing where it can."""
        most = max(4, self.settings.max_clients // 2)
        uid, users = client.peer.uid, Counter(self.readers.values())
        room = most if uid == 0 else max(1, most - most // 4)
        taken = users[0] if uid == 0 else users.total() - users[0]
        if taken >= room or (uid != 0 and users[uid] >= max(2, most // 8)):
            return f"{users[uid]} of user {uid} are there, and {users.total()} in all"
        return ""

    @property
    def dropped(self) -> int:
        """How many lines clients did not get, of those that are gone, too."""
        return self._dropped + sum(client.dropped for client in self.clients)

    def rights(self, peer: Peer) -> Rights:
        """Return what a peer may."""
        return rights_of(peer, *self.settings.groups)

    def check(self) -> None:
        """Send those away who are silent or do not read; called about once a second."""
        now = time.monotonic()
        for client in tuple(self.clients):
            client.check(now)
        self.fork_server.check()

    async def close(self) -> None:
        """End each connection once its buffer is out, or after a while."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for client in tuple(self.clients):
            client.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                while self.clients:
                    await asyncio.sleep(0.01)
        for client in tuple(self.clients):
            client.abort()
        if self.readers:
            await asyncio.wait(self.readers, timeout=_FAREWELL)
        self.fork_server.close()
