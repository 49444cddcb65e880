"""journald's native protocol: one datagram has the fields of a message.

See https://systemd.io/JOURNAL_NATIVE_PROTOCOL. Unlike libsystemd's sd_journal_send(3), nothing here
waits. While journald hangs, some messages are kept for later, and the others are counted.
"""

from __future__ import annotations

import collections
import errno
import fcntl
import os
import socket
from collections.abc import Iterable
from struct import pack
from typing import Final

__all__ = ["ADDRESS", "Field", "Journald", "encode"]

ADDRESS: Final = "/run/systemd/journal/socket"

_KEPT: Final = 256
"""The most messages that are kept while journald hangs."""
_TOO_LARGE: Final = {errno.EMSGSIZE, errno.ENOBUFS}
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

Field = tuple[str, object]


def encode(fields: Iterable[Field]) -> bytes:
    """Return a message. A value with a newline has its length in front: it cannot forge a field."""
    parts = []
    for name, value in fields:
        text = value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape")
        if b"\n" in text:
            parts.append(b"%b\n%b%b\n" % (name.encode(), pack("<Q", len(text)), text))
        else:
            parts.append(b"%b=%b\n" % (name.encode(), text))
    return b"".join(parts)


class Journald:
    """The socket to journald, and messages that wait for it."""

    def __init__(self, address: str = ADDRESS) -> None:
        self.lost = 0
        """Messages that were dropped, because too many were waiting for journald."""
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        self._kept: collections.deque[bytes] = collections.deque()

    def send(self, fields: Iterable[Field]) -> None:
        """Send a message, or keep it for the next flush. Raises OSError if there is no journald."""
        message = encode(fields)
        try:
            self.flush()
            if not self._kept and self._try(message):
                return
        except OSError:
            self._kept.clear()
            raise
        if len(self._kept) < _KEPT:
            self._kept.append(message)
        else:
            self.lost += 1

    def flush(self) -> None:
        """Send the kept messages, until journald has no more room. Raises OSError."""
        while self._kept and self._try(self._kept[0]):
            self._kept.popleft()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _try(self, message: bytes) -> bool:
        """Send a message; returns false if journald has no room now. Raises OSError."""
        try:
            self._socket.sendto(message, self._address)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
            return self._try_as_file(message)
        return True

    def _try_as_file(self, message: bytes) -> bool:
        """Send a message that is too large for a datagram, in a sealed memfd."""
        fd = os.memfd_create("qmond-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(fd, "wb", buffering=0) as file:
            file.write(message)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            try:
                rights = socket.SOL_SOCKET, socket.SCM_RIGHTS, pack("=i", fd)
                self._socket.sendmsg([b""], [rights], 0, self._address)
            except BlockingIOError:
                return False
        return True
