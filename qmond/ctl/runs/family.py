"""Which lines are those of a process and its descendants."""

from __future__ import annotations

from typing import Any

__all__ = ["Family"]


class Family:
    """The descendants of one process, and the process itself, as the lines tell of them in order.

    A process that comes under watch is one of them where one of its `parents` is: natives that
    stand between are in no other line. `members` has those who live.
    """

    def __init__(self, root: int) -> None:
        self.members = {root}
        self._root = root
        self._threads: dict[int, int] = {}  # thread → its process, of members alone

    def has(self, event: dict[str, Any]) -> bool:
        """Say whether a line is one of theirs; the family grows and shrinks by it."""
        name, pid = event.get("event"), event.get("pid", -1)
        if name == "SCHED_SWITCH":  # it tells of threads, and of no process
            return self._is_ours(event["prev_pid"]) or self._is_ours(event["next_pid"])
        if name == "TRACK_FORK":
            pid = event["parent"]
            if pid in self.members:
                self.members.add(event["child"])
            else:
                self._forget(event["child"])
        elif name == "TRACK_ADOPT":
            self._forget(event["pid"])
            above = {event["ppid"], *(row["pid"] for row in event.get("parents", ()))}
            if not above.isdisjoint(self.members):
                self.members.add(event["pid"])
        found = pid in self.members
        if "tid" in event:
            if found:
                self._threads[event["tid"]] = pid
            else:
                self._threads.pop(event["tid"], None)  # that number is another's thread now
        if name == "EXIT" and found:
            self._forget(event["pid"])
        return found

    def _is_ours(self, thread: int) -> bool:
        return thread != self._root and (thread in self.members or thread in self._threads)

    def _forget(self, pid: int) -> None:
        """Drop a process that has ended, or whose number is another one's now."""
        if pid in self.members and pid != self._root:
            self.members.discard(pid)
            threads = [thread for thread, of in self._threads.items() if of == pid]
            for thread in threads:
                del self._threads[thread]
