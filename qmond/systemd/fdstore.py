"""systemd's descriptor store, which keeps file descriptors while the daemon restarts.

The protocol is that of sd_pid_notify_with_fds(3) to store, and of sd_listen_fds(3) to get back.
The library sdnotify connects the socket, but cannot send descriptors: they are sent here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from typing import Final

import sdnotify

__all__ = ["forget", "keep", "take"]

_FIRST: Final = 3  # SD_LISTEN_FDS_START


def keep(descriptors: Mapping[str, int]) -> bool:
    """Store descriptors by name, without colons; returns false if there is no store."""
    return _notify(
        (f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", [fd]) for name, fd in descriptors.items()
    )


def forget(names: Iterable[str]) -> None:
    """Remove descriptors from the store."""
    _notify((f"FDSTOREREMOVE=1\nFDNAME={name}", []) for name in names)


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


def _notify(messages: Iterable[tuple[str, list[int]]]) -> bool:
    """Send messages, each with its descriptors; says whether somebody takes them."""
    channel = sdnotify.SystemdNotifier().socket
    if channel is None:  # no systemd has started this process
        return False
    with channel:
        try:
            for message, descriptors in messages:
                socket.send_fds(channel, [message.encode()], descriptors)
        except OSError:
            return False
    return True
