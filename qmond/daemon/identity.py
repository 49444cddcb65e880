"""Who the front is: a user of its own without any privilege, where the core can make it one.

It talks to strangers. So it must not be able to do anything to the core, to the log's files but
read them, or to another service: the number that stands for it where there is no user `qmond-front`
is one that no distribution gives to anybody (https://systemd.io/UIDS-GIDS).
"""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from typing import Final

from qmond.config.keys import Config
from qmond.privileges import is_permitted
from qmond.server.access import group_id

__all__ = ["Identity", "front_identity", "log_group"]

_USER: Final = "qmond-front"
_UNUSED: Final = 60999
_NEEDED: Final = (6, 7)  # CAP_SETGID, CAP_SETUID: include/uapi/linux/capability.h


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and a group, by their numbers."""

    uid: int
    gid: int

    def command(self, *words: str) -> tuple[str, ...]:
        """Return what runs a command as this user, without capabilities and other groups.

        By setpriv(1): a process with ambient capabilities that changes its user would keep them.
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
    """Return who the front runs as; None where this process cannot make it another user."""
    if not is_permitted(*_NEEDED):
        return None
    try:
        uid = pwd.getpwnam(_USER).pw_uid
    except KeyError:
        uid = _UNUSED
    gid = group_id(config.log.group)
    return Identity(uid, _UNUSED if gid is None else gid)


def log_group(config: Config) -> int | None:
    """Return the group that the log's files are given to, so that the front can read them."""
    identity = front_identity(config)
    return identity.gid if identity else group_id(config.log.group)
