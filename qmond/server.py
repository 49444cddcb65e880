"""The socket and its clients: each gets the lines that it wants, and nothing waits for one."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from qmond.access import Peer, Rights, admit, bind_unix, group_id, rights_of
from qmond.clients import Batch, Client, Source
from qmond.config import Socket
from qmond.errors import ConfigError, InUseError, QmondError
from qmond.filters import without_content
from qmond.protocol import EVERYTHING, Selection

__all__ = ["Hub", "Lock"]

_log = logging.getLogger(__name__)

_FAREWELL: Final = 3
"""Seconds that clients have to take what is still theirs, at the end."""


class Lock:
    """A file that says: the socket beside it is this process'. It is gone when it is closed."""

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises InUseError where another process has it, OSError."""
        self._path = path
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._fd)
                raise InUseError(
                    f"{path.with_suffix('')}: another qmond has this socket",
                    hint="ask it with `qmonctl status`, or give this one another socket.path",
                ) from error
            if self._is_ours():
                return
            os.close(self._fd)  # its last owner removed it between our two calls

    def close(self) -> None:
        """Remove the file, then let go of it."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)

    def _is_ours(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return False


class Hub:
    """The socket and its clients."""

    def __init__(self, limits: Socket, source: Source) -> None:
        self.limits = limits
        self.source = source
        self.clients: set[Client] = set()
        self.readers: set[asyncio.Task[None]] = set()
        self._dropped = 0  # by those that are gone
        self._groups = group_id(limits.group), group_id(limits.payload_group)
        self._server: asyncio.Server | None = None
        self._path: Path | None = None

    async def listen(self, path: Path, listener: socket.socket | None = None) -> None:
        """Begin to serve; the caller holds the path's lock. Raises QmondError.

        A `listener` that already is at the path, a socket unit's, stays there at the end.
        """
        try:
            if listener is None:
                path.unlink(missing_ok=True)  # left by one that was killed: the lock is ours
                listener = bind_unix(path, self._groups[0])
                self._path = path
                self._say_who_may()
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: Client(self), sock=listener, backlog=self.limits.max_clients
            )
        except OSError as error:
            raise QmondError(f"{path}: {error.strerror}") from error

    def _say_who_may(self) -> None:
        if self._groups[0] is None:
            _log.info("there is no group %s: only root may connect", self.limits.group)

    def configure(self, limits: Socket, configured: int) -> None:
        """Go by other limits, and groups, from here on; `configured` are the events that exist.

        Raises ConfigError, and then nothing has changed.
        """
        groups = group_id(limits.group), group_id(limits.payload_group)
        if self._path and groups[0] != self._groups[0]:
            try:
                admit(self._path, groups[0])
            except OSError as error:
                fault = f"socket.group: {self._path} cannot be {limits.group}'s: {error.strerror}"
                raise ConfigError([fault]) from error
        self.limits, self._groups = limits, groups
        self.source = replace(self.source, configured=configured)
        if self._path:
            self._say_who_may()

    def broadcast(self, batch: Batch) -> None:
        """Hand a batch to every client that tails; the wanted lines are chosen once for equals."""
        chosen: dict[tuple[Selection, bool], tuple[bytes, int]] = {}
        for client in tuple(self.clients):
            if client.feed:
                client.feed.push(batch.data, batch.seq - len(batch), len(batch))
            elif client.selection is not None:
                key = client.selection, client.rights.content
                if key not in chosen:
                    chosen[key] = _chosen(batch, *key)
                client.push(*chosen[key])

    def enter(self, client: Client) -> bool:
        """Take one more client; says whether there was room."""
        if len(self.clients) >= self.limits.max_clients:
            return False
        self.clients.add(client)
        return True

    def leave(self, client: Client) -> None:
        """Forget a client."""
        if client in self.clients:
            self.clients.remove(client)
            self._dropped += client.dropped

    @property
    def dropped(self) -> int:
        """How many lines clients did not get, of those that are gone, too."""
        return self._dropped + sum(client.dropped for client in self.clients)

    def rights(self, peer: Peer) -> Rights:
        """Return what a peer may."""
        return rights_of(peer, *self._groups)

    def check(self) -> None:
        """Send those away who are silent or do not read; called about once a second."""
        now = time.monotonic()
        for client in tuple(self.clients):
            client.check(now)

    async def close(self) -> None:
        """Remove the socket, and end each connection once its buffer is out, or after a while."""
        if self._server is None:
            return
        if self._path:
            self._path.unlink(missing_ok=True)
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


def _chosen(batch: Batch, selection: Selection, content: bool) -> tuple[bytes, int]:  # noqa: FBT001
    if selection == EVERYTHING:
        lines, count = bytes(batch.data), len(batch)
    else:
        lines, count = batch.select(selection.mask, selection.pids)
    return (lines if content else without_content(lines)), count
