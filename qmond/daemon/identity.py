"""The user that the front runs as: one of its own, without any privilege.

The front talks to untrusted clients. So its user must have no rights over the core or any other
service, and may only read the log's files. The service has the user `qmond-front`. A daemon that
root starts by hand takes a number that distributions leave unused (https://systemd.io/UIDS-GIDS).
It depends on the log's directory, which one daemon at a time can have: when a front is replaced,
all processes of its user are killed.
"""

from __future__ import annotations

import logging
import os
import pwd
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from qmond.config.keys import Config
from qmond.privileges import is_permitted
from qmond.server.access import group_id

__all__ = ["Identity", "front_identity", "log_group"]

_log = logging.getLogger(__name__)

_USER: Final = "qmond-front"
_UNUSED: Final = range(60706, 61184)
_NEEDED: Final = (6, 7)  # CAP_SETGID, CAP_SETUID: include/uapi/linux/capability.h


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and a group, by number."""

    uid: int
    gid: int

    def command(self, *words: str) -> tuple[str, ...]:
        """Return the command that runs a command as this user, without capabilities or more groups.

        It is setpriv(1)'s: a process with ambient capabilities keeps them when it changes its user.
        """
        return (
            "setpriv",
            f"--reuid={self.uid}",
            f"--regid={self.gid}",
            "--clear-groups",
            "--inh-caps=-all",
            "--ambient-caps=-all",
            "--no-new-privs",
            *words,
        )


def front_identity(config: Config) -> Identity | None:
    """Return the user that the front runs as; None if this process may not change users."""
    if not is_permitted(*_NEEDED):
        return None
    number = _UNUSED[crc32(os.fsencode(config.log.dir)) % len(_UNUSED)]
    try:
        uid = pwd.getpwnam(_USER).pw_uid if os.geteuid() != 0 else number
    except KeyError:
        uid = number
    gid = group_id(config.log.group)
    return Identity(uid, number if gid is None else gid)


def log_group(config: Config) -> int | None:
    """Return the group that owns the log's files, so that the front can read them."""
    if group_id(config.log.group) is None:
        _log.info("there is no group %s: only root may read the log", config.log.group)
    identity = front_identity(config)
    return identity.gid if identity else group_id(config.log.group)
