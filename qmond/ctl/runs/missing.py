"""What a record lacks: the reasons why it is not complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Final

__all__ = ["Missing"]

_NAMED_MAX: Final = 10
"""Processes that a reason names."""
_NOTES_MAX: Final = 20
_MORE: Final = "and more"
_WITH_PEER: Final = frozenset({"SENDTO", "RECVFROM"})
_OTHER_FAMILY: Final = "family:"
"""How an address begins that is neither IP's nor a Unix socket's."""


class Missing:
    """Collects what is not known of a process tree, and says so in a sentence for each kind.

    `concerned` are the events whose loss matters.
    """

    def __init__(self, concerned: Collection[str]) -> None:
        self._concerned = frozenset(concerned)
        self._notes: list[str] = []
        self._lost: dict[str, Counter[str]] = {}
        """The losses that lines report, by stage."""
        self._counted: Counter[str] = Counter()
        """The losses that the daemon has counted, of all processes."""
        self._held_back: Counter[str] = Counter()
        """What the daemon has counted as suppressed, of all processes."""
        self._reported: Counter[str] = Counter()
        """What lines report as suppressed, of all processes."""
        self._dropped = 0
        self._without_peer: Counter[str] = Counter()
        self._bound = 0
        self._damaged: Counter[str] = Counter()
        self._processes: dict[str, set[int]] = {}
        """Processes by what is not known of them."""

    def note(self, reason: str) -> None:
        """Add a reason of its own."""
        if reason not in self._notes:
            self._notes.append(reason if len(self._notes) < _NOTES_MAX else _MORE)
            del self._notes[_NOTES_MAX + 1 :]

    def note_processes(self, what: str, *pids: int) -> None:
        """Add processes to the reason that begins with `what`."""
        self._processes.setdefault(what, set()).update(pids)

    def add_loss(self, name: str, event: dict[str, Any], pids: Collection[int]) -> None:
        """Take an event that tells of a loss; `pids` are the processes of the tree."""
        if name == "GAP":
            self.note(f"lines {event['from_seq']} to {event['to_seq']} are no longer in the log")
        elif name == "DROPPED":
            self._dropped += event["count"]
        elif name == "LOST":
            self._add(f"LOST at the {event['stage']}, by all processes", event["by_event"])
        else:
            self._reported.update(event["by_event"])
            if event["pid"] == -1 or event["pid"] in pids:
                self._add("SUPPRESSED by limits", event["by_event"])

    def _add(self, stage: str, by_event: dict[str, int]) -> None:
        counts = {name: count for name, count in by_event.items() if name in self._concerned}
        if counts:
            self._lost.setdefault(stage, Counter()).update(counts)

    def count(self, lost: dict[str, int], held_back: dict[str, int]) -> None:
        """Take what the daemon has counted by event: it reports losses only once a second."""
        self._counted = Counter(lost)
        self._held_back = Counter(held_back)

    def add(self, event: dict[str, Any]) -> None:
        """Take an event of the tree."""
        name = event["event"]
        if name in _WITH_PEER and "addr" not in event:
            self._without_peer[name] += 1
        elif name == "BIND" and not event["addr"].startswith(_OTHER_FAMILY):
            self._bound += 1
        elif name == "TRACK_ADOPT":
            self._add_adoption(event)
        elif name == "IO_URING":
            what = "io_uring, whose I/O makes no system calls, is used by"
            self.note_processes(what, event["pid"])
        if event.get("redacted"):
            self.note("content is left out, because this user may not see it")
        elif _is_damaged(event):
            self._damaged[name] += 1

    def _add_adoption(self, event: dict[str, Any]) -> None:
        if event["origin"] == "procfs":
            self.note_processes("what was before TRACK_ADOPT is not known of", event["pid"])
        if not event["argv"] and event["guest"] is None:
            self.note_processes("program and command line are not known of", event["pid"])

    @property
    def reasons(self) -> list[str]:
        """The reasons; empty if nothing is known to be missing."""
        return list(self._reasons())

    def _reasons(self) -> Iterator[str]:
        yield from self._notes
        for stage, counts in self._lost.items():
            yield f"{stage}: {_counted(counts)}"
        reported = sum((self._lost[at] for at in self._lost if at.startswith("LOST")), Counter())
        if unreported := self._counted - reported:
            yield f"LOST, by all processes: {_counted(unreported)}"
        if unreported := self._held_back - self._reported:
            yield f"SUPPRESSED, not known of which process: {_counted(unreported)}"
        if self._dropped:
            yield f"DROPPED: {self._dropped} lines, because this program was too slow"
        for what, pids in self._processes.items():
            yield f"{what} {_named(pids)}"
        if self._without_peer:
            yield f"the peers of {_counted(self._without_peer)} are not known"
        if self._bound:
            yield f"who connected to the addresses of {self._bound} BIND is not known"
        if self._damaged:
            yield f"text is cut, unreadable or withheld in {_counted(self._damaged)}"


def _is_damaged(event: dict[str, Any]) -> bool:
    """Whether a text of an event is not whole. Content may end at `capture.bytes`."""
    is_cut = event.get("truncated") and "buf" not in event
    return bool(is_cut or event.get("fault") or event.get("withheld"))


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _named(pids: Collection[int]) -> str:
    kind = "process" if len(pids) == 1 else "processes"
    names = ", ".join(map(str, sorted(pids)[:_NAMED_MAX]))
    return f"{len(pids)} {kind} ({names}{', …' if len(pids) > _NAMED_MAX else ''})"
