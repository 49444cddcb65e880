"""What a process tree did, in a few texts: who there was, which files and which sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from qmond.ctl.show.text import printable

__all__ = ["Digest", "Life"]

_WANTED: Final = {"TRACK_OPENAT": ("files", "file"), "CONNECT": ("sockets", "addr")}


@dataclass(slots=True, eq=False)
class Life:
    """One process from its beginning to its end; a number that is used again is another life."""

    pid: int
    above: Life | None = None
    argv: list[str] = field(default_factory=list)
    images: list[tuple[str | None, str]] = field(default_factory=list)
    """Architecture and path of the guests that it ran, one after the other."""
    end: str = ""
    below: list[Life] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    sockets: Counter[str] = field(default_factory=Counter)

    def runs(self, event: dict[str, Any]) -> None:
        """Take note of the guest that a line names."""
        guest = event.get("guest")
        if guest is not None:
            image = (event.get("arch"), guest)
            if not self.images or self.images[-1] != image:
                self.images.append(image)

    def label(self) -> str:
        """Return who it is, in a line."""
        started = printable(" ".join(self.argv)) if self.argv else "fork"
        ran = "; ".join(f"{printable(guest)} ({arch or 'native'})" for arch, guest in self.images)
        return f"{self.pid} {started}" + (f" [{ran}]" if ran else "")


class Digest:
    """Takes lines of one process tree in their order, and tells it in short."""

    def __init__(self) -> None:
        self.lives: list[Life] = []
        self.counts: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        """What was read and written, by READ and WRITE."""
        self.calls: Counter[str] = Counter()
        """Calls of the statistics' kinds that these processes made, by ALLOC_SUM and the like."""
        self._now: dict[int, Life] = {}
        self.pids: set[int] = set()
        """Those of all lives, ended or not."""

    @property
    def running(self) -> list[int]:
        """Processes whose end is not told."""
        return sorted(self._now)

    def add(self, event: dict[str, Any]) -> None:
        """Take note of what a line of the tree tells."""
        name = event["event"]
        self.counts[name] += 1
        if name == "TRACK_ADOPT":
            self._adopt(event)
        elif name == "TRACK_FORK":
            self._begin(Life(event["child"]), event["parent"])
            self._now[event["child"]].runs(event)
        life = self._now.get(event.get("pid", -1))
        if life is None:
            return
        life.runs(event)
        if name in {"READ", "WRITE"}:
            self.bytes[name] += event.get("len", 0)
        elif name in _WANTED:
            of, key = _WANTED[name]
            getattr(life, of)[event[key]] += 1
        elif name == "EXIT":
            signal = event["signal"]
            life.end = f"exit {event['code']}" if signal is None else f"signal {signal}"
            del self._now[life.pid]

    def count(self, name: str, by_pid: dict[str, int]) -> None:
        """Add what a statistic tells of these processes."""
        self.calls[name] += sum(
            count for pid, count in by_pid.items() if pid.isdecimal() and int(pid) in self.pids
        )

    def _adopt(self, event: dict[str, Any]) -> None:
        parents = [row["pid"] for row in event.get("parents", ())] or [event["ppid"]]
        above = next((pid for pid in parents if pid in self._now), 0)
        self._begin(Life(event["pid"], argv=event["argv"] or [event["bin"]]), above)

    def _begin(self, life: Life, above: int) -> None:
        life.above = self._now.get(above)
        if life.above is not None:
            life.above.below.append(life)
        self.lives.append(life)
        self.pids.add(life.pid)
        self._now[life.pid] = life

    # ---- the texts -----------------------------------------------------------------------------

    def tree(self) -> Iterator[str]:
        """Yield a line for each process, below the one that it comes from."""
        stack = [(life, "", "") for life in reversed(self.lives) if life.above is None]
        while stack:
            life, first, others = stack.pop()
            yield f"{first}{life.label()}: {life.end or 'no end was seen'}\n"
            for at, child in enumerate(reversed(life.below)):
                branch, trunk = ("└─ ", "   ") if at == 0 else ("├─ ", "│  ")
                stack.append((child, others + branch, others + trunk))

    def files(self) -> Iterator[str]:
        """Yield the paths that each process opened, and how often."""
        return self._by_life("files")

    def sockets(self) -> Iterator[str]:
        """Yield the addresses that each process connected to, and how often."""
        return self._by_life("sockets")

    def _by_life(self, of: str) -> Iterator[str]:
        for life in self.lives:
            found: Counter[str] = getattr(life, of)
            if found:
                yield f"{life.label()}\n"
                yield from (f"{found[text]:8} {printable(text)}\n" for text in sorted(found))
