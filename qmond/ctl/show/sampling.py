"""What `qmonctl top` shows: the daemon's figures, a second apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from qmond.client import Client
from qmond.ctl.show.text import age, printable
from qmond.errors import QmondError

__all__ = ["COLUMNS", "Sample", "Sampler", "rows_of", "summary"]

COLUMNS: Final = ("PID", "GUEST", "ARCH", "EV/S", "EVENTS", "COMM", "AGE", "UID")
_Key = Callable[[Mapping[str, Any]], Any]
_KEYS: Final[dict[str, _Key]] = {
    "PID": lambda process: process["pid"],
    "GUEST": lambda process: process["guest"] or process["bin"],
    "ARCH": lambda process: process["arch"] or "native",
    "EV/S": lambda process: process["rate"],
    "EVENTS": lambda process: process["events"],
    "COMM": lambda process: process["comm"],
    "AGE": lambda process: process["age"],
    "UID": lambda process: process["uid"],
}
_NUMBERS: Final = {"PID", "EV/S", "EVENTS", "AGE", "UID"}


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of one moment; `rates` are by type, a second, `error` why there are none."""

    processes: list[dict[str, Any]] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    error: str = ""


class Sampler:
    """Asks the daemon, and comes back to one that was away."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None
        self._before: tuple[float, dict[str, int]] | None = None

    def sample(self) -> Sample:
        """Return the figures as they are now; it may take as long as the daemon does."""
        try:
            self._client = self._client or self._connect()
            processes, counters = self._client.ps(), self._client.status()["counters"]
        except QmondError as error:
            self.close()
            return Sample(error=error.args[0])
        now, seen = time.monotonic(), {name: row["seen"] for name, row in counters.items()}
        before, self._before = self._before, (now, seen)
        rates = {}
        if before and now > before[0]:
            rates = {n: (seen[n] - before[1].get(n, 0)) / (now - before[0]) for n in seen}
        totals = {
            column: sum(row[column] for row in counters.values())
            for column in ("seen", "written", "lost", "suppressed")
        }
        return Sample(processes, {n: rate for n, rate in rates.items() if rate > 0}, totals)

    def close(self) -> None:
        """Hang up."""
        if self._client:
            self._client.close()
        self._client = self._before = None


def rows_of(
    processes: list[dict[str, Any]], column: str, *, reverse: bool
) -> list[tuple[str, ...]]:
    """Return the table's rows, sorted by a column; numbers begin with the greatest."""
    descending = (column in _NUMBERS) != reverse
    ordered = sorted(processes, key=_KEYS[column], reverse=descending)
    return [
        tuple(age(p["age"]) if c == "AGE" else printable(str(_KEYS[c](p))) for c in COLUMNS)
        for p in ordered
    ]


def summary(sample: Sample) -> str:
    """Return two lines above the table: the totals, and the types that come most."""
    if sample.error:
        return f"{printable(sample.error)}\ntrying again each second"
    total = sum(sample.rates.values())
    figures = "  ".join(f"{name} {value}" for name, value in sample.totals.items())
    most = sorted(sample.rates.items(), key=lambda item: -item[1])[:6]
    types = "  ".join(f"{printable(name)} {rate:.0f}/s" for name, rate in most)
    return f"{len(sample.processes)} processes  {total:.0f} events/s  {figures}\n{types or 'quiet'}"
