"""The socket where clients come in: the core binds it, and lets the front have it."""

from __future__ import annotations

import contextlib
import logging
import socket
from pathlib import Path

from qmond.config.keys import Socket
from qmond.errors import ConfigError, QmondError
from qmond.server.access import admit, bind_unix, group_id, is_dead

__all__ = ["Entrance"]

_log = logging.getLogger(__name__)


class Entrance:
    """The listening socket at a path, whose lock the caller holds.

    A descriptor that is `given`, a socket unit's, stays there at the end. `group` is the number of
    socket.group, or None if there is no such group, as it was last looked up.
    """

    def __init__(self, path: Path, config: Socket, given: int | None = None) -> None:
        """Bind it. Raises QmondError."""
        self._path = path
        self._config = config
        self.group = group_id(config.group)
        self._backlog = config.max_clients
        self._is_ours = given is None
        self._is_given_up = False
        try:
            self.listener = self._bind() if given is None else socket.socket(fileno=given)
            self.listener.listen(self._backlog)
        except OSError as error:
            raise QmondError(f"{path}: {error.strerror}") from error
        self._say_who_may()

    def _bind(self) -> socket.socket:
        self._path.unlink(missing_ok=True)  # left by one that was killed: the lock is ours
        return bind_unix(self._path, self.group)

    def renew(self) -> socket.socket | None:
        """Bind it anew where it was shut down, and return it then; called once a second.

        Whoever has a listening socket, too, can shut it down: a front that a client took over.
        """
        if self._is_given_up or not is_dead(self.listener):
            return None
        if not self._is_ours:
            _log.error("%s was shut down: systemctl restart qmond.socket", self._path)
            self._is_given_up = True
            return None
        _log.error("%s was shut down, and is bound anew", self._path)
        try:
            listener = self._bind()
            listener.listen(self._backlog)
        except OSError as error:
            _log.error("%s: %s", self._path, error.strerror)
            return None
        self.listener.close()
        self.listener = listener
        return listener

    def admit(self, config: Socket) -> None:
        """Go by other groups, or by the same ones with other numbers.

        Raises ConfigError, and then nothing has changed.
        """
        group = group_id(config.group)
        if self._is_ours:
            try:
                admit(self._path, group)
            except OSError as error:
                fault = (
                    f"socket.group: {self._path} cannot be {config.group}'s: {error.strerror}; "
                    "a service gets a group of another name or number when it is restarted"
                )
                raise ConfigError([fault]) from error
        self._config, self.group = config, group
        self._say_who_may()

    def _say_who_may(self) -> None:
        """Log what the groups mean that do not exist, and what systemd's socket does not allow."""
        config = self._config
        if self.group is None:
            _log.info("there is no group %s: only root is served", config.group)
        elif group_id(config.payload_group) is None:
            _log.info("there is no group %s: only root sees content", config.payload_group)
        if self.group is not None and not self._is_ours:
            with contextlib.suppress(OSError):
                if self._path.stat().st_gid != self.group:
                    _log.warning(
                        "%s is not for the group %s: set SocketGroup= of qmond.socket",
                        self._path,
                        config.group,
                    )

    def close(self) -> None:
        """Remove the socket, where it is the daemon's own."""
        if self._is_ours:
            self._path.unlink(missing_ok=True)
        self.listener.close()
