"""A process and all its descendants, followed by the lines about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["NEEDED", "Tree"]

NEEDED: Final = frozenset({"TRACK_FORK", "TRACK_ADOPT", "EXIT"})
"""The events that change who is a member."""
_TICK: Final = 0.015
"""Seconds by which two start times of one process may differ: procfs counts in ticks of 10 ms."""


class Tree:
    """A process and its descendants; `members` has the process IDs of those that run.

    A child is a member if its parent is. A process that comes under watch is a member if one of its
    `parents` is: native processes between them are in no other line. If a process ID appears again
    with other ancestors and another start time, or none, it is another process.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self.members = {root}
        self._starts: dict[int, float] = {}
        """When members started, in seconds since boot, if a line says so."""

    def follow(self, name: str, event: Mapping[str, Any], pids: Iterable[int]) -> bool:
        """Update the members by a line; says whether one of `pids`, its processes, is a member.

        It needs all lines of the events in `NEEDED`, in order.
        """
        if name == "TRACK_FORK":
            self._place(event["child"], {event["parent"]}, event.get("start"))
        elif name == "TRACK_ADOPT":
            parents = (row["pid"] for row in event.get("parents", ()))
            self._place(event["pid"], {event["ppid"], *parents}, event.get("start"))
        found = not self.members.isdisjoint(pids)
        if name == "EXIT":
            self.drop(event["pid"])
        return found

    def drop(self, pid: int) -> None:
        """Remove a process that has ended, or whose ID has been reused."""
        if pid != self.root:
            self.members.discard(pid)
            self._starts.pop(pid, None)

    def _place(self, pid: int, ancestors: set[int], start: float | None) -> None:
        known = self._starts.get(pid)
        if known is not None and start is not None and abs(known - start) < _TICK:
            return  # the same process; its parent has ended
        self.drop(pid)
        if not ancestors.isdisjoint(self.members):
            self.members.add(pid)
            if start is not None:
                self._starts[pid] = start
