"""Who may ask what: by the credentials that the kernel gives for the other end of a connection.

Root may all. Members of one group see events without captured content, those of another with it.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
from dataclasses import dataclass
from pathlib import Path
from struct import Struct, iter_unpack
from typing import Final

__all__ = ["Peer", "Rights", "admit", "bind_unix", "group_id", "peer_of", "rights_of"]

_SO_PEERGROUPS: Final = 59  # include/uapi/asm-generic/socket.h
_UCRED: Final = Struct("=iII")
_MOST: Final = 1024  # bytes that Python's getsockopt takes


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as it was when it connected."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Rights:
    """What a peer may: ask at all, see what guests read and wrote, change how the daemon works."""

    ask: bool
    content: bool
    control: bool


def peer_of(connection: socket.socket) -> Peer:
    """Return who is at the other end of a Unix socket. Raises OSError."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(found)
    return Peer(pid, uid, gid, _groups_of(connection, uid, gid) | {gid})


def rights_of(peer: Peer, group: int | None, payload_group: int | None) -> Rights:
    """Return what a peer may, by the numbers of the two groups, if they exist."""
    if peer.uid == 0:
        return Rights(ask=True, content=True, control=True)
    content = payload_group in peer.groups
    return Rights(ask=content or group in peer.groups, content=content, control=False)


def group_id(name: str) -> int | None:
    """Return a group's number, or None where there is none of this name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def bind_unix(path: Path, group: int | None) -> socket.socket:
    """Return a socket at a path, for root and, if there is one, a group. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)  # root's alone from the first moment on
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        admit(path, group)
    except OSError:
        listener.close()
        raise
    return listener


def admit(path: Path, group: int | None) -> None:
    """Let a group, if there is one, connect to a socket. Raises OSError."""
    if group is not None:
        os.chown(path, -1, group)
        path.chmod(0o660)


def _groups_of(connection: socket.socket, uid: int, gid: int) -> frozenset[int]:
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST)
        return frozenset(number for (number,) in iter_unpack("=I", found))
    except OSError:  # more groups than there is room for
        try:
            return frozenset(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
        except KeyError:
            return frozenset()
