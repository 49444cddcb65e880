"""Which pid namespace this process is in. Events have the process IDs of the first one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["in_first_pid_namespace", "own_id_in"]

_FIRST: Final = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h


def in_first_pid_namespace() -> bool:
    """Whether this is the host's pid namespace. False, too, if that cannot be read."""
    try:
        return os.readlink("/proc/self/ns/pid") == _FIRST
    except OSError:  # no procfs is mounted
        return False


def own_id_in(procfs: Path) -> int | None:
    """Return this process' ID in the host's procfs, mounted at a path.

    None if it is not the host's, or if this user may not look: only root may.
    """
    try:
        is_hosts = os.readlink(procfs / "1/ns/pid") == _FIRST
        return int(os.readlink(procfs / "self")) if is_hosts else None
    except OSError:
        return None
