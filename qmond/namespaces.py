"""Which pid namespace this process is in. Events have the process IDs of the first one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["in_first_pid_namespace", "is_hosts", "own_id_in"]

_FIRST: Final = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_KTHREADD: Final = "2"
_PF_KTHREAD: Final = 0x00200000  # include/linux/sched.h


def in_first_pid_namespace() -> bool:
    """Whether this is the host's pid namespace. False, too, if that cannot be read."""
    try:
        return os.readlink("/proc/self/ns/pid") == _FIRST
    except OSError:  # no procfs is mounted
        return False


def own_id_in(procfs: Path) -> int | None:
    """Return this process' ID in the host's procfs; None if what is mounted there is not that."""
    try:
        return int(os.readlink(procfs / "self")) if is_hosts(procfs) else None
    except OSError:
        return None


def is_hosts(procfs: Path) -> bool:
    """Whether a procfs has the host's process IDs: only then has it kernel threads."""
    try:
        stat = (procfs / _KTHREADD / "stat").read_bytes()
        flags = int(stat[stat.rindex(b")") + 1 :].split()[6])  # proc(5)
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _PF_KTHREAD)
