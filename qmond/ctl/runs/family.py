"""Which lines are those of a process and its descendants."""

from __future__ import annotations

from typing import Any

from qmond.events.tree import Tree

__all__ = ["Family"]


class Family(Tree):
    """The tree of a command; it knows its threads, too, which SCHED_SWITCH tells of."""

    def __init__(self, root: int) -> None:
        super().__init__(root)
        self._threads: dict[int, int] = {}  # thread → its process, of members alone

    def has(self, event: dict[str, Any]) -> bool:
        """Say whether a line is one of theirs; the family grows and shrinks by it."""
        name, pid = event.get("event", ""), event.get("pid", -1)
        if name == "SCHED_SWITCH":  # it tells of threads, and of no process
            return self._is_ours(event["prev_pid"]) or self._is_ours(event["next_pid"])
        if name == "TRACK_FORK":
            pid = event["parent"]
        found = self.follow(name, event, [pid])
        if "tid" in event:
            if found:
                self._threads[event["tid"]] = pid
            else:
                self._threads.pop(event["tid"], None)  # that number is another's thread now
        return found

    def drop(self, pid: int) -> None:
        """Forget a process, and its threads."""
        if pid in self.members and pid != self.root:
            threads = [thread for thread, of in self._threads.items() if of == pid]
            for thread in threads:
                del self._threads[thread]
        super().drop(pid)

    def _is_ours(self, thread: int) -> bool:
        return thread != self.root and (thread in self.members or thread in self._threads)
