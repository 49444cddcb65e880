"""systemd's descriptor store, which keeps file descriptors while the daemon restarts.

The protocol is that of sd_pid_notify_with_fds(3) to store, and of sd_listen_fds(3) to get back.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["forget", "keep", "take"]

_FIRST: Final = 3  # SD_LISTEN_FDS_START


def keep(descriptors: Mapping[str, int]) -> bool:
    """Store descriptors by name, without colons; returns false if there is no store."""
    return all(
        _notify(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", fd) for name, fd in descriptors.items()
    )


def forget(names: Iterable[str]) -> None:
    """Remove descriptors from the store."""
    for name in names:
        _notify(f"FDSTOREREMOVE=1\nFDNAME={name}")


def take() -> dict[str, int]:
    """Return the descriptors that the store or a socket unit passed to this process, by name.

    The caller owns them. A second call returns none. If a name comes twice, the first descriptor
    is closed.
    """
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, int] = {}
    for at in range(int(count)):
        fd = _FIRST + at
        os.set_inheritable(fd, False)  # noqa: FBT003 - its own signature
        name = names[at] if at < len(names) else "unknown"
        if name in found:
            os.close(found[name])
        found[name] = fd
    return found


def _notify(message: str, fd: int | None = None) -> bool:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):  # abstract
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect(address)
            socket.send_fds(channel, [message.encode()], [] if fd is None else [fd])
        except OSError:
            return False
    return True
