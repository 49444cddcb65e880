"""journald's native protocol: a message's fields as one datagram.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL; unlike libsystemd's sd_journal_send(3), nothing here
ever waits: where journald hangs, a few messages are kept for later, and the rest is counted.
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
"""Messages that wait at most."""
_TOO_LARGE: Final = {errno.EMSGSIZE, errno.ENOBUFS}
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

Field = tuple[str, object]


def encode(fields: Iterable[Field]) -> bytes:
    """Return a message; a value with a newline is told with its length, so it can forge nothing."""
    parts = []
    for name, value in fields:
        text = value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape")
        if b"\n" in text:
            parts.append(b"%b\n%b%b\n" % (name.encode(), pack("<Q", len(text)), text))
        else:
            parts.append(b"%b=%b\n" % (name.encode(), text))
    return b"".join(parts)


class Journald:
    """The way to journald."""

    def __init__(self, address: str = ADDRESS) -> None:
        self.lost = 0
        """Messages that journald did not take, and that were too many to keep."""
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        self._kept: collections.deque[bytes] = collections.deque()

    def send(self, fields: Iterable[Field]) -> None:
        """Send a message, now or soon. Raises OSError where there is no journald."""
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
        """Send what had to wait, as far as journald takes it. Raises OSError."""
        while self._kept and self._try(self._kept[0]):
            self._kept.popleft()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def _try(self, message: bytes) -> bool:
        """Send a message; says whether journald had room for it. Raises OSError."""
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
        """Send a message that is too large for a datagram, as a file in memory that is sealed."""
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
