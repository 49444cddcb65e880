"""The process tree of a command, with its threads."""

from __future__ import annotations

from typing import Any

from qmond.events.tree import Tree

__all__ = ["CommandTree"]


class CommandTree(Tree):
    """A Tree that also follows threads, because SCHED_SWITCH names only threads."""

    def __init__(self, root: int) -> None:
        super().__init__(root)
        self._threads: dict[int, int] = {}  # thread → process; only threads of members

    def has(self, event: dict[str, Any]) -> bool:
        """Whether an event is one of the tree's. Each event also updates the tree.

        All events must be passed, in their order.
        """
        name, pid = event.get("event", ""), event.get("pid", -1)
        if name == "SCHED_SWITCH":  # it has thread IDs only
            return self._has_thread(event["prev_pid"]) or self._has_thread(event["next_pid"])
        if name == "TRACK_FORK":
            pid = event["parent"]
        is_member = self.follow(name, event, [pid])
        if "tid" in event:
            if is_member:
                self._threads[event["tid"]] = pid
            else:
                self._threads.pop(event["tid"], None)  # the ID was reused by another process
        return is_member

    def drop(self, pid: int) -> None:
        """Remove a process and its threads."""
        if pid in self.members and pid != self.root:
            threads = [thread for thread, process in self._threads.items() if process == pid]
            for thread in threads:
                del self._threads[thread]
        super().drop(pid)

    def _has_thread(self, thread: int) -> bool:
        return thread != self.root and (thread in self.members or thread in self._threads)
