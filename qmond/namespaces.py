"""Which pid namespace this process is in. Events have the process IDs of the first one."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["in_first_pid_namespace"]

_FIRST: Final = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h


def in_first_pid_namespace() -> bool:
    """Whether this is the host's pid namespace. False, too, if that cannot be read."""
    try:
        return os.readlink("/proc/self/ns/pid") == _FIRST
    except OSError:  # no procfs is mounted
        return False
