"""The bytes that wait for one client, and for how long it has read none.

connection.py cuts off a client that reads none for too long.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import termios
import time
from collections.abc import Callable
from struct import Struct
from typing import Final

from qmond.server.settings import FrontSettings

__all__ = ["BLOCK", "SendBuffer"]

BLOCK: Final = 16384
"""Bytes. The kernel keeps what is sent in blocks of at most this size, and tells when the other end
has read one of them to its end: see unix_stream_sendmsg in net/unix/af_unix.c."""
_INT: Final = Struct("=i")


class SendBuffer:
    """The send buffer of one connection, which asyncio holds in its transport.

    Nothing here waits: who writes looks at `room`. Little is given to the kernel at a time, because
    what it has tells no more than by whole blocks whether the client reads.
    """

    def __init__(self, settings: Callable[[], FrontSettings]) -> None:
        self.is_full = False
        """Whether more than half of it is taken, as asyncio tells the connection."""
        self._settings = settings
        self._written = 0  # bytes
        self._progress = (0, 0)  # bytes that the kernel has taken, and that it still has
        self._last_progress = time.monotonic()
        self._transport: asyncio.Transport

    def attach(self, transport: asyncio.Transport) -> None:
        """Begin: the connection is there."""
        self._transport = transport
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BLOCK)  # it doubles that
        half = self.size // 2
        transport.set_write_buffer_limits(high=half, low=half // 2)

    @property
    def size(self) -> int:
        """How many bytes may wait."""
        return self._settings().client_buffer

    @property
    def timeout(self) -> float:
        """For how many seconds the client may read nothing."""
        return self._settings().client_timeout

    @property
    def waiting(self) -> int:
        """How many bytes wait."""
        return self._transport.get_write_buffer_size()

    @property
    def room(self) -> int:
        """How many bytes more may wait; less than nothing where too many do."""
        return self.size - self.waiting

    @property
    def is_closing(self) -> bool:
        """Whether the connection is closed, or will be once all is sent."""
        return self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send, whether there is room or not."""
        self._written += len(data)
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection once all is sent."""
        self._transport.close()

    def stalled(self, now: float) -> float:
        """Return for how many seconds the client has read less than a block, though bytes wait.

        It sees progress only from one call to the next.
        """
        waiting = self.waiting
        progress = (self._written - waiting, self._unread())
        if not waiting or progress != self._progress:
            self._last_progress = now
        self._progress = progress
        return now - self._last_progress

    def _unread(self) -> int:
        """Return how much the kernel has that the client has not read, by blocks."""
        found = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
        return int(_INT.unpack(found)[0])
