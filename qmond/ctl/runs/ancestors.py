"""The ancestors of a process beyond those that TRACK_ADOPT has, from procfs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["TOLD_MAX", "above"]

TOLD_MAX: Final = 8
"""Ancestors that TRACK_ADOPT has at most."""
_INIT: Final = 1


def above(pid: int) -> tuple[list[int], bool]:
    """Return the ancestors of a process, its parent first, and whether they are all of them.

    They are not if one has ended. The IDs are those of this process' pid namespace.
    """
    found: list[int] = []
    while pid > _INIT:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return found, False
        pid = int(stat[stat.rindex(b")") + 1 :].split()[1])  # after comm and the state: proc(5)
        found.append(pid)
    return found, True
