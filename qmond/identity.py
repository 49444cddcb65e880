"""Who the front is: a user of its own without any privilege, where the core can make it one.

It talks to strangers. So it must not be able to do anything to the core, to the log's files but
read them, or to another service: the number that stands for it where there is no user `qmond-front`
is one that no distribution gives to anybody (https://systemd.io/UIDS-GIDS).
"""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qmond.access import group_id
from qmond.config import Config

__all__ = ["Identity", "front_identity", "log_group"]

_USER: Final = "qmond-front"
_UNUSED: Final = 60999
_NEEDED: Final = (6, 7)  # CAP_SETGID, CAP_SETUID: include/uapi/linux/capability.h


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and a group, by their numbers."""

    uid: int
    gid: int


def front_identity(config: Config) -> Identity | None:
    """Return who the front runs as; None where this process cannot make it another user."""
    if not _may_change_user():
        return None
    try:
        uid = pwd.getpwnam(_USER).pw_uid
    except KeyError:
        uid = _UNUSED
    gid = group_id(config.socket.payload_group)
    return Identity(uid, _UNUSED if gid is None else gid)


def log_group(config: Config) -> int | None:
    """Return the group that the log's files are given to, so that the front can read them."""
    identity = front_identity(config)
    return identity.gid if identity else group_id(config.socket.group)


def _may_change_user() -> bool:
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    held = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return all(int(held, 16) >> number & 1 for number in _NEEDED)
