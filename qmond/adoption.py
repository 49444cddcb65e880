"""Processes that already ran when the daemon came: found in procfs, and put under watch.

The probes are attached before, so what execs or forks meanwhile is the kernel side's. A child
that was forked before its parent was put under watch is found by looking again, until a look
finds nothing new.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from qmond import procfs
from qmond.config import Match
from qmond.processes import Process, read_process

__all__ = ["adopt", "look_up", "matches"]


class Tracked(Protocol):
    """The kernel side's set of processes."""

    def track(self, pid: int) -> bool:
        """Put a process under watch; false where it is already."""

    def untrack(self, pid: int) -> None:
        """Take it out again."""


def matches(name: bytes, match: Match) -> bool:
    """Whether an executable's file name or comm is to be watched, as the kernel side decides it."""
    return name.startswith(tuple(map(os.fsencode, match.prefixes))) and not name.startswith(
        tuple(map(os.fsencode, match.exclude))
    )


def adopt(tracked: Tracked, match: Match, root: Path) -> Iterator[Process]:
    """Put every matching process and its descendants under watch; yields those it did."""
    adopted: set[int] = set()
    while True:
        stats = dict(_stats(root))
        fresh = [
            pid
            for pid, stat in stats.items()
            if pid not in adopted and (stat.ppid in adopted or _is_match(pid, stat, match, root))
        ]
        if not fresh:
            return
        for pid in fresh:
            adopted.add(pid)
            if not tracked.track(pid):
                continue
            try:
                process = read_process(pid, root)
            except (OSError, ValueError):
                tracked.untrack(pid)  # it ended before the kernel side could have seen it end
                continue
            yield process


def look_up(root: Path) -> Callable[[int], Process | None]:
    """Return what finds a process in procfs, if it is still there."""

    def find(pid: int) -> Process | None:
        try:
            return read_process(pid, root)
        except (OSError, ValueError):
            return None

    return find


def _stats(root: Path) -> Iterator[tuple[int, procfs.Stat]]:
    for pid in procfs.pids(root):
        try:
            yield pid, procfs.read_stat(pid, root)
        except (OSError, ValueError):
            continue


def _is_match(pid: int, stat: procfs.Stat, match: Match, root: Path) -> bool:
    try:
        name = os.path.basename(procfs.read_exe(*procfs.alive(pid, root)))
    except (OSError, ValueError):  # it has ended
        return False
    return matches(name, match) or matches(stat.comm, match)
