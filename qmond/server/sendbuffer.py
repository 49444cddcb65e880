"""The bytes that wait for one client, and for how long it has taken none.

connection.py cuts off a client that takes none for too long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from qmond.server.settings import FrontSettings

__all__ = ["SendBuffer"]


class SendBuffer:
    """The send buffer of one connection, which asyncio holds in its transport.

    Nothing here waits: who writes looks at `room`.
    """

    def __init__(self, settings: Callable[[], FrontSettings]) -> None:
        self.is_full = False
        """Whether more than half of it is taken, as asyncio tells the connection."""
        self._settings = settings
        self._written = self._sent = 0  # bytes, and how many of them the kernel has taken
        self._last_progress = time.monotonic()
        self._transport: asyncio.Transport

    def attach(self, transport: asyncio.Transport) -> None:
        """Begin: the connection is there."""
        self._transport = transport
        half = self.size // 2
        transport.set_write_buffer_limits(high=half, low=half // 2)

    @property
    def size(self) -> int:
        """How many bytes may wait."""
        return self._settings().client_buffer

    @property
    def timeout(self) -> float:
        """For how many seconds the client may take nothing."""
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
        """Return for how many seconds the client has taken nothing, though something waits.

        It sees progress only from one call to the next.
        """
        waiting = self.waiting
        sent = self._written - waiting
        if not waiting or sent != self._sent:
            self._last_progress = now
        self._sent = sent
        return now - self._last_progress
