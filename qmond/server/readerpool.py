"""The readers of all clients: who may have one more, and the fork server that they come from."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine

from qmond.server.forkserver import ForkServer
from qmond.server.settings import FrontSettings

__all__ = ["Readers"]


class Readers:
    """The readers that run, also those of clients that have gone; `len` is their number.

    Root may have half of `max_clients`, whoever else has some. All other users together may have
    three quarters of that, and each of them an eighth.
    """

    def __init__(self, fork_server: ForkServer, settings: Callable[[], FrontSettings]) -> None:
        self.fork_server = fork_server
        self._settings = settings
        self._running: dict[asyncio.Task[None], int] = {}  # whose each is

    def __len__(self) -> int:
        return len(self._running)

    def refusal(self, uid: int) -> str:
        """Return why a user cannot have one more; nothing where there is room."""
        most = max(4, self._settings().max_clients // 2)
        users = Counter(self._running.values())
        room = most if uid == 0 else max(1, most - most // 4)
        taken = users[0] if uid == 0 else users.total() - users[0]
        if taken >= room or (uid != 0 and users[uid] >= max(2, most // 8)):
            return f"{users[uid]} of user {uid} are there, and {users.total()} in all"
        return ""

    def run(self, uid: int, reading: Coroutine[object, object, None]) -> None:
        """Run a reader for a user; it counts until it has ended."""
        task = asyncio.get_running_loop().create_task(reading)
        self._running[task] = uid
        task.add_done_callback(self._running.pop)

    def check(self) -> None:
        """End the fork server where no reader has run for a while."""
        self.fork_server.check()

    async def close(self, patience: float) -> None:
        """Wait so many seconds for the readers to end, then end the others, and the fork server."""
        if self._running:
            await asyncio.wait(self._running, timeout=patience)
        self.fork_server.close()
