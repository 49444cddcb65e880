"""The socket where clients come in: the core binds it, and lets the front have it."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

from qmond.access import admit, bind_unix, group_id
from qmond.config import Socket
from qmond.errors import ConfigError, QmondError

__all__ = ["Entrance"]

_log = logging.getLogger(__name__)


class Entrance:
    """The listening socket at a path, whose lock the caller holds.

    A descriptor that is `given`, a socket unit's, stays there at the end.
    """

    def __init__(self, path: Path, limits: Socket, given: int | None = None) -> None:
        """Bind it. Raises QmondError."""
        self._path = path
        self._is_ours = given is None
        try:
            if given is None:
                path.unlink(missing_ok=True)  # left by one that was killed: the lock is ours
                self.listener = bind_unix(path, group_id(limits.group))
                self._say_who_may(limits.group)
            else:
                self.listener = socket.socket(fileno=given)
            self.listener.listen(limits.max_clients)
        except OSError as error:
            raise QmondError(f"{path}: {error.strerror}") from error

    def admit(self, group: str) -> None:
        """Let another group connect. Raises ConfigError, and then nothing has changed."""
        if not self._is_ours:
            return
        try:
            admit(self._path, group_id(group))
        except OSError as error:
            fault = f"socket.group: {self._path} cannot be {group}'s: {error.strerror}"
            raise ConfigError([fault]) from error
        self._say_who_may(group)

    def _say_who_may(self, group: str) -> None:
        if group_id(group) is None:
            _log.info("there is no group %s: only root may connect", group)

    def close(self) -> None:
        """Remove the socket, where it is the daemon's own."""
        if self._is_ours:
            self._path.unlink(missing_ok=True)
        self.listener.close()
