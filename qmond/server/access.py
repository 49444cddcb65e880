"""Who may ask what, by the credentials that the kernel gives of a connection's other end.

Root may do everything. Members of one group see events without captured content, members of another
group see them with it.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import select
import socket
from dataclasses import dataclass
from pathlib import Path
from struct import Struct, iter_unpack
from typing import Final

from qmond.errors import InUseError
from qmond.namespaces import in_first_pid_namespace

__all__ = [
    "Lock",
    "Peer",
    "Rights",
    "admit",
    "bind_unix",
    "group_id",
    "is_dead",
    "is_gone",
    "peer_of",
    "rights_of",
]

_SO_PEERGROUPS: Final = 59  # include/uapi/asm-generic/socket.h
_UCRED: Final = Struct("=iII")
_GROUPS_SIZE: Final = 1024  # bytes, the most that Python's getsockopt takes


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as it was when it connected."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]

    def __str__(self) -> str:
        """Return what messages call it."""
        return f"pid {self.pid}, uid {self.uid}, gid {self.gid}"

    @property
    def hosts_pid(self) -> int | None:
        """Its process ID as events have it, or None if that is not known here."""
        return (self.pid or None) if in_first_pid_namespace() else None


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
    """Return what a peer may; None stands for a group that does not exist.

    Who may see content must be in both groups.
    """
    if peer.uid == 0:
        return Rights(ask=True, content=True, control=True)
    ask = group in peer.groups
    return Rights(ask=ask, content=ask and payload_group in peer.groups, control=False)


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
        mask = os.umask(0o177)  # nobody but root can connect in between
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
    """Let a group connect to a socket, and nobody else; None: no group. Raises OSError."""
    if group is None:
        path.chmod(0o600)
    else:
        os.chown(path, -1, group)
        path.chmod(0o660)


class Lock:
    """A lock file beside a socket: the process that has it owns the socket."""

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises InUseError where another process has it, OSError."""
        self._path = path
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._fd)
                raise InUseError(
                    f"{path.with_suffix('')}: another qmond has this socket",
                    hint="ask it with `qmonctl status`, or give this one another socket.path",
                ) from error
            if self._is_ours():
                return
            os.close(self._fd)  # its last owner has removed it between the two calls

    def close(self) -> None:
        """Remove the file, then let go of it."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)

    def _is_ours(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return False


def is_dead(listener: socket.socket) -> bool:
    """Whether somebody who shares this socket has shut it down: nobody can connect any more."""
    poll = select.poll()
    poll.register(listener, select.POLLRDHUP)
    return bool(poll.poll(0))


def is_gone(connection: socket.socket) -> bool:
    """Whether the other end is closed entirely: it neither writes nor reads any more."""
    poll = select.poll()
    poll.register(connection, 0)  # POLLHUP is always told
    return bool(poll.poll(0))


def _groups_of(connection: socket.socket, uid: int, gid: int) -> frozenset[int]:
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_SIZE)
        return frozenset(number for (number,) in iter_unpack("=I", found))
    except OSError:  # more groups than there is room for
        try:
            return frozenset(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
        except KeyError:
            return frozenset()
