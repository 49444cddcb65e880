"""Which processes are a process and its descendants, as the lines tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["NEEDED", "Tree"]

NEEDED: Final = frozenset({"TRACK_FORK", "TRACK_ADOPT", "EXIT"})
"""The events that tell who is a member."""


class Tree:
    """A process and its descendants; `members` has those who live.

    A child is one of them where its parent is. A process that comes under watch is one of them
    where one of its `parents` is: natives that stand between are in no other line. A number that
    is told anew, with other ancestors, is another process.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self.members = {root}

    def follow(self, name: str, event: Mapping[str, Any], pids: Iterable[int]) -> bool:
        """Grow and shrink by a line; says whether one of the processes it is about is a member.

        It must be given all lines of the events that are `NEEDED`, in their order.
        """
        if name == "TRACK_FORK":
            self._place(event["child"], {event["parent"]})
        elif name == "TRACK_ADOPT":
            parents = (row["pid"] for row in event.get("parents", ()))
            self._place(event["pid"], {event["ppid"], *parents})
        found = not self.members.isdisjoint(pids)
        if name == "EXIT":
            self.drop(event["pid"])
        return found

    def drop(self, pid: int) -> None:
        """Forget a process that has ended, or whose number is another one's now."""
        if pid != self.root:
            self.members.discard(pid)

    def _place(self, pid: int, ancestors: set[int]) -> None:
        self.drop(pid)
        if not ancestors.isdisjoint(self.members):
            self.members.add(pid)
