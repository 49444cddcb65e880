"""A summary of what a process tree did: its processes, their files, and their sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from qmond.ctl.show.text import printable, tree_lines

__all__ = ["LISTED", "Digest", "Process"]

_OPENS: Final = "TRACK_OPENAT"
_SOCKETS: Final = frozenset({"CONNECT", "BIND", "SENDTO", "RECVFROM"})
LISTED: Final = _SOCKETS | {_OPENS, "EXEC", "READ", "WRITE", "SIGNAL_GENERATE", "IO_URING"}
"""The events that a digest goes by, beside those that a process tree is made of."""


@dataclass(slots=True, eq=False)
class Process:
    """One process, from its start to its end. A reused ID is another Process."""

    pid: int
    parent: Process | None = None
    argv: list[str] = field(default_factory=list)
    images: list[tuple[str | None, str]] = field(default_factory=list)
    """The architecture and path of each guest that it ran, in order."""
    end: str = ""
    """How it ended, as text; empty while it runs."""
    children: list[Process] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    """Paths that it asked to open."""
    sockets: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Addresses that it named, each with the call: connect, bind, sendto or recvfrom."""
    programs: Counter[str] = field(default_factory=Counter)
    """Paths that it asked to execute."""
    signals: Counter[int] = field(default_factory=Counter)
    """Signals that were generated for it."""
    written: Counter[int] = field(default_factory=Counter)
    """Bytes that it asked to write, by descriptor."""

    def note_image(self, event: dict[str, Any]) -> None:
        """Add the guest that an event names, if it is another one than before."""
        guest = event.get("guest")
        if guest is not None:
            image = (event.get("arch"), guest)
            if not self.images or self.images[-1] != image:
                self.images.append(image)

    def add(self, event: dict[str, Any]) -> None:
        """Add an event of this process."""
        name = event["event"]
        if name == _OPENS:
            self.files[_text(event, "file")] += 1
        elif name == "EXEC":
            self.programs[_text(event, "filename")] += 1
        elif name in _SOCKETS and "addr" in event:
            self.sockets[name.lower(), _text(event, "addr")] += 1
        elif name == "WRITE":
            self.written[event["fd"]] += event["len"]
        elif name == "SIGNAL_GENERATE":
            self.signals[event["sig"]] += 1
        elif name == "EXIT":
            signal = event["signal"]
            self.end = f"exit {event['code']}" if signal is None else f"signal {signal}"

    def label(self) -> str:
        """Return the process in one line: ID, command line, guests."""
        started = printable(" ".join(self.argv)) if self.argv else "fork"
        ran = "; ".join(f"{printable(guest)} ({arch or 'native'})" for arch, guest in self.images)
        return f"{self.pid} {started}" + (f" [{ran}]" if ran else "")


class Digest:
    """Collects a summary from the events of one process tree, in their order."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.counts: Counter[str] = Counter()
        """Events, by their name."""
        self.bytes: Counter[str] = Counter()
        """Bytes of READ and WRITE."""
        self.calls: Counter[str] = Counter()
        """Calls of these processes in the statistics, by ALLOC_SUM and the like."""
        self._running: dict[int, Process] = {}
        self.pids: set[int] = set()
        """The IDs of all processes, including those that ended."""

    @property
    def running(self) -> list[int]:
        """The IDs of the processes without an EXIT."""
        return sorted(self._running)

    def add(self, event: dict[str, Any]) -> None:
        """Add an event of the tree."""
        name = event["event"]
        self.counts[name] += 1
        if name == "TRACK_ADOPT":
            self._adopt(event)
        elif name == "TRACK_FORK":
            self._start(Process(event["child"]), event["parent"])
            self._running[event["child"]].note_image(event)
        process = self._running.get(event.get("pid", -1))
        if process is None:
            return
        process.note_image(event)
        if name in {"READ", "WRITE"}:
            self.bytes[name] += event.get("len", 0)
        if name == "EXIT":
            del self._running[process.pid]
        process.add(event)

    def count(self, name: str, by_pid: dict[str, int]) -> None:
        """Add the calls of these processes in a line of statistics."""
        self.calls[name] += sum(
            count for pid, count in by_pid.items() if pid.isdecimal() and int(pid) in self.pids
        )

    def _adopt(self, event: dict[str, Any]) -> None:
        parents = [row["pid"] for row in event.get("parents", ())] or [event["ppid"]]
        parent = next((pid for pid in parents if pid in self._running), 0)
        self._start(Process(event["pid"], argv=event["argv"] or [event["bin"]]), parent)

    def _start(self, process: Process, parent: int) -> None:
        process.parent = self._running.get(parent)
        if process.parent is not None:
            process.parent.children.append(process)
        self.processes.append(process)
        self.pids.add(process.pid)
        self._running[process.pid] = process

    # ---- the text files ------------------------------------------------------------------------

    def tree(self) -> Iterator[str]:
        """Yield the lines of tree.txt: the processes as a tree, and how each ended."""
        return tree_lines(
            [process for process in self.processes if process.parent is None],
            label=lambda process: f"{process.label()}: {process.end or 'no end was seen'}",
            children=lambda process: process.children,
        )

    def files(self) -> Iterator[str]:
        """Yield the lines of files.txt: the paths that each process opened, and how often."""
        return self._by_process(lambda process: process.files)

    def sockets(self) -> Iterator[str]:
        """Yield the lines of sockets.txt: calls and addresses by process, and how often."""
        return self._by_process(
            lambda process: Counter(
                {f"{call:8} {addr}": count for (call, addr), count in process.sockets.items()}
            )
        )

    def _by_process(self, listed: Callable[[Process], Counter[str]]) -> Iterator[str]:
        for process in self.processes:
            counts = listed(process)
            if counts:
                yield f"{process.label()}\n"
                yield from (f"{counts[text]:8} {printable(text)}\n" for text in sorted(counts))


def _text(event: dict[str, Any], key: str) -> str:
    """Return a path or an address, with a mark if it is not whole."""
    if "buf" in event:  # the marks are about this
        return str(event[key])
    if event.get("withheld"):
        return "(withheld)"
    if event.get("fault"):
        return f"{event[key]} (not all could be read)"
    return f"{event[key]} (cut)" if event.get("truncated") else str(event[key])
