"""The daemon's figures, as Prometheus has them: read when somebody asks, not kept."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Iterable, Sized
from typing import Final

from qmond import __version__
from qmond.bpf.ring import RingBuffer
from qmond.config.keys import Config
from qmond.daemon.accounts import Accounts
from qmond.daemon.fronting import Fronting
from qmond.log.keeper import LogKeeper
from qmond.outputs.exposition import Family, Samples, render

__all__ = ["Metrics"]

_FRESH: Final = 0.5
"""Seconds that a text serves all who ask: asking often costs the daemon no more."""
_ACCOUNTS: Final = {
    "seen": ("qmond_events_total", "Events that there were, in the kernel or of the daemon's own."),
    "written": ("qmond_events_written_total", "Events that are in the log."),
    "suppressed": ("qmond_events_suppressed_total", "Events that `limits` held back."),
}


class Metrics:
    """All figures of one daemon. Counters begin at 0 with it, or where the one before ended."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        ring: RingBuffer,
        accounts: Accounts,
        processes: Sized,
        log: LogKeeper,
        front: Fronting,
    ) -> None:
        self._config = config
        self._ring = ring
        self._accounts = accounts
        self._processes = processes
        self._log = log
        self._front = front
        self._began = time.time() - _age()
        self._text = b""
        self._made = -_FRESH

    def text(self) -> bytes:
        """Return the figures as they are now, or were a moment ago. Raises OSError."""
        now = time.monotonic()
        if now - self._made >= _FRESH:
            self._text = self._render("process_")
            self._made = now
        return self._text

    def file(self) -> bytes:
        """Return the figures for another exporter that has a `process_…` too. Raises OSError."""
        return self._render("qmond_process_")

    def _render(self, prefix: str) -> bytes:
        return render([*self._events(), *self._state(), *self._process(prefix)])

    def _events(self) -> Iterable[Family]:
        totals = self._accounts.totals()
        names = sorted({*self._config().events, *totals})
        for column, (name, about) in _ACCOUNTS.items():
            rows: Samples = {(event,): totals.get(event, {}).get(column, 0) for event in names}
            yield Family(name, "counter", about, ("event",), rows)
        at_log = self._accounts.not_logged
        lost: Samples = {}
        for event in names:
            lost[event, "ring"] = totals.get(event, {}).get("lost", 0) - at_log[event]
            lost[event, "log"] = at_log[event]
        about = "Events that the ring had no room for, or that could not be written to the log."
        yield Family("qmond_events_lost_total", "counter", about, ("event", "stage"), lost)

    def _state(self) -> Iterable[Family]:
        log, ring, front = self._log.describe(), self._ring, self._front
        build = (__version__, platform.python_version(), platform.release())
        yield Family(
            "qmond_build_info",
            "gauge",
            "Which qmond runs, on which Python and kernel; always 1.",
            ("version", "python", "kernel"),
            {build: 1},
        )
        for name, kind, about, value in (
            ("ring_used_bytes", "gauge", "What waits in the ring.", ring.used),
            ("ring_size_bytes", "gauge", "The ring's room.", ring.size),
            ("tracked_processes", "gauge", "Processes under watch.", len(self._processes)),
            ("clients", "gauge", "Clients of the socket.", front.clients),
            (
                "client_dropped_total",
                "counter",
                "Lines that clients did not get, being too slow; of those that are gone, too.",
                front.dropped,
            ),
            ("log_bytes_total", "counter", "Bytes written to the log.", log["total"]),
            ("log_failing", "gauge", "1 while the log cannot be written.", int(log["failing"])),
            ("log_live_bytes", "gauge", "The size of events.jsonl.", log["bytes"]),
            ("log_rotated_files", "gauge", "Older files of the log.", log["rotated"]),
            ("log_rotated_bytes", "gauge", "Their size.", log["rotated_bytes"]),
        ):
            yield Family.single(f"qmond_{name}", kind, about, value)

    def _process(self, prefix: str) -> Iterable[Family]:
        """Return what every client library of Prometheus tells of its process."""
        with open("/proc/self/statm", "rb") as file:
            pages = [int(word) for word in file.read().split()]
        for name, kind, about, value in (
            ("cpu_seconds_total", "counter", "CPU time, of all threads.", time.process_time()),
            ("start_time_seconds", "gauge", "When it started, since 1970.", self._began),
            ("virtual_memory_bytes", "gauge", "Mapped memory.", pages[0] * resource.getpagesize()),
            (
                "resident_memory_bytes",
                "gauge",
                "Resident memory.",
                pages[1] * resource.getpagesize(),
            ),
            ("open_fds", "gauge", "Open descriptors.", len(os.listdir("/proc/self/fd"))),
            (
                "max_fds",
                "gauge",
                "How many there may be.",
                resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            ),
        ):
            yield Family.single(f"{prefix}{name}", kind, about, value)


def _age() -> float:
    """Return for how long this process has been running, in seconds."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])  # starttime of proc(5)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
