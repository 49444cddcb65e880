"""The data of `qmonctl top`: samples of the daemon's processes and counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from qmond.client import Client
from qmond.ctl.show.text import age, printable, process_count
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
    """One sample. `rates` are events per second, by type.

    `totals` are the sums of the counters, by column. `error` is set if the daemon did not answer,
    `truncated` if it could not name all processes.
    """

    processes: list[dict[str, Any]] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    truncated: bool = False
    error: str = ""


class Sampler:
    """Takes samples from the daemon, and reconnects after an error."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None
        self._previous: tuple[float, dict[str, int]] | None = None

    def sample(self) -> Sample:
        """Return the current sample. Blocks until the daemon has answered."""
        try:
            self._client = self._client or self._connect()
            processes, truncated = self._client.ps(), self._client.truncated
            counters = self._client.status()["counters"]
        except QmondError as error:
            self.close()
            return Sample(error=error.args[0])
        now, seen = time.monotonic(), {name: row["seen"] for name, row in counters.items()}
        previous, self._previous = self._previous, (now, seen)
        rates = {}
        if previous and now > previous[0]:
            then, counts = previous
            rates = {n: (seen[n] - counts.get(n, 0)) / (now - then) for n in seen}
        totals = {
            column: sum(row[column] for row in counters.values())
            for column in ("seen", "written", "lost", "suppressed")
        }
        shown = {name: rate for name, rate in rates.items() if rate > 0}
        return Sample(processes, shown, totals, truncated)

    def close(self) -> None:
        """Close the connection."""
        if self._client:
            self._client.close()
        self._client = self._previous = None


def rows_of(
    processes: list[dict[str, Any]], column: str, *, reverse: bool
) -> list[tuple[str, ...]]:
    """Return the rows of the table, sorted by a column: numbers descending, texts ascending."""
    descending = (column in _NUMBERS) != reverse
    ordered = sorted(processes, key=_KEYS[column], reverse=descending)
    return [
        tuple(age(p["age"]) if c == "AGE" else printable(str(_KEYS[c](p))) for c in COLUMNS)
        for p in ordered
    ]


def summary(sample: Sample) -> str:
    """Return the two lines above the table: the totals, and the most frequent types."""
    if sample.error:
        return f"{printable(sample.error)}\ntrying again each second"
    total = sum(sample.rates.values())
    figures = "  ".join(f"{name} {value}" for name, value in sample.totals.items())
    most = sorted(sample.rates.items(), key=lambda item: -item[1])[:6]
    types = "  ".join(f"{printable(name)} {rate:.0f}/s" for name, rate in most)
    shown = process_count(len(sample.processes)) + (" (not all)" if sample.truncated else "")
    return f"{shown}  {total:.0f} events/s  {figures}\n{types or 'quiet'}"
