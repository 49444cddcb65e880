"""The process tree of a command, followed line by line."""

from __future__ import annotations

from typing import Any

from qmond.events.tree import Tree

__all__ = ["CommandTree"]


class CommandTree(Tree):
    """A Tree that finds the processes of an event by itself."""

    def has(self, event: dict[str, Any]) -> bool:
        """Whether an event is one of the tree's. Each event also updates the tree.

        All events must be passed, in their order.
        """
        pids = [event[key] for key in ("pid", "parent", "next_tgid") if key in event]
        return self.follow(event.get("event", ""), event, pids)
