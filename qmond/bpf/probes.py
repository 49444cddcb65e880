"""The loaded kernel side: its settings, watched processes, counters and statistics."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from struct import pack, unpack
from typing import Final, Self

from qmond.bpf.header import (
    BUCKET,
    BUCKET_KEY,
    COUNTER,
    HITS,
    ORIGINS,
    SETTINGS,
    STATISTIC,
    STATISTIC_KEY,
    TREE_SHIFT,
    TREES,
    URGENT_SIZE,
)
from qmond.bpf.load import Options, load
from qmond.bpf.maps import Map, possible_cpus, synchronize
from qmond.bpf.ring import RingBuffer
from qmond.events.records import OTHERS, PATTERN_MAX, PATTERN_WORDS, layout_format
from qmond.events.table import EVENTS

__all__ = ["PREFIX_MAX", "Counter", "Probes", "Settings", "Statistic"]

PREFIX_MAX: Final = PATTERN_WORDS * 8
"""The longest prefix of a file name, in bytes."""

_ZERO: Final = bytes(4)
_BUCKET: Final = layout_format(BUCKET)
_BUCKET_KEY: Final = layout_format(BUCKET_KEY)
_COUNTER: Final = layout_format(COUNTER)
_SETTINGS: Final = layout_format(SETTINGS)
_STATISTIC: Final = layout_format(STATISTIC)
_STATISTIC_KEY: Final = layout_format(STATISTIC_KEY)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the kernel side. Bit N of `mask` enables event N; `capture` is in bytes.

    `budget` is the most allocations per second that are counted for one process. `limits` is the
    most events per second of one process, by the number of the event.
    """

    mask: int
    capture: int
    budget: int
    prefixes: tuple[bytes, ...]
    excludes: tuple[bytes, ...]
    limits: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counter:
    """The counts of one event, since the kernel side was loaded."""

    seen: int
    lost: int
    suppressed: int = 0


@dataclass(frozen=True, slots=True)
class Statistic:
    """The statistics of one process in one interval."""

    mmaps: int = 0
    max_pages: int = 0
    allocs: int = 0
    frees: int = 0

    def __add__(self, other: Self) -> Statistic:
        return Statistic(
            self.mmaps + other.mmaps,
            max(self.max_pages, other.max_pages),
            self.allocs + other.allocs,
            self.frees + other.frees,
        )


class Probes:
    """The loaded kernel side. It owns `descriptors`; when they are closed, it is detached."""

    def __init__(self, descriptors: dict[str, int], options: Options) -> None:
        self.descriptors = descriptors
        self.ring = RingBuffer(descriptors["map:events"], options.ring)
        self.urgent = RingBuffer(descriptors["map:urgent"], URGENT_SIZE)
        cpus = possible_cpus()
        self._page = 0  # the offset in bytes of the mapped page of `tracked`
        self._map_tracked()
        self._probed = Map(descriptors["map:probed"], 4, layout_format(HITS).size)
        more = 8 * len(EVENTS) + 2 * PATTERN_MAX * 2 * PREFIX_MAX
        self._settings = Map(descriptors["map:settings"], 4, _SETTINGS.size + more)
        self._buckets = Map(descriptors["map:buckets"], _BUCKET_KEY.size, _BUCKET.size)
        self._suppressed: dict[bytes, int] = {}
        self._counters = Map(descriptors["map:counters"], 4, _COUNTER.size, cpus=cpus)
        self._statistics = Map(
            descriptors["map:statistics"], _STATISTIC_KEY.size, _STATISTIC.size, cpus=cpus
        )
        self._others = Map(descriptors["map:others"], 4, _STATISTIC.size, cpus=cpus)
        self._wanted: Settings | None = None
        # continues where the last daemon stopped
        self._generation: int = _SETTINGS.unpack_from(self._settings[_ZERO])[2]

    @classmethod
    def load(cls, options: Options) -> Self:
        """Compile and attach. No process is watched before `configure`. Raises LoadError."""
        return cls(load(options), options)

    @property
    def attached(self) -> list[str]:
        """The attached tracepoints."""
        return [name.removeprefix("link:") for name in self.descriptors if name.startswith("link:")]

    def configure(self, settings: Settings) -> None:
        """Put settings in force, atomically for each program that starts afterwards."""
        self._wanted = settings
        patterns = [settings.prefixes, settings.excludes]
        head = _SETTINGS.pack(
            settings.mask,
            settings.capture,
            self._generation,
            settings.budget,
            *map(len, patterns),
        )
        limits = pack(
            f"={len(EVENTS)}Q", *(settings.limits.get(at, 0) for at in range(len(EVENTS)))
        )
        with contextlib.suppress(OSError):  # if it is full, these are counted only in `counters`
            for event in settings.limits:
                self._buckets.insert(_BUCKET_KEY.pack(OTHERS, event), bytes(_BUCKET.size))
        self._settings[_ZERO] = head + limits + b"".join(map(_patterns, patterns))

    def track(self, pid: int) -> bool:
        """Watch a process that already runs; returns false if it is watched already."""
        if self.is_tracked(pid):
            return False
        self._store(pid, ORIGINS["procfs"] | secrets.randbelow(TREES) << TREE_SHIFT)
        return True

    def untrack(self, pid: int) -> None:
        """Stop watching a process."""
        self._store(pid, 0)

    def is_tracked(self, pid: int) -> bool:
        """Whether a process is watched now."""
        at = self._turn_to(pid)
        return bool(self._watch[at])

    def _store(self, pid: int, value: int) -> None:
        at = self._turn_to(pid)
        self._watch[at] = value

    def _turn_to(self, pid: int) -> int:
        """Map the page of `tracked` that has a process; returns its index in that page."""
        if (page := 2 * pid & -mmap.PAGESIZE) != self._page:
            self._unmap_tracked()
            self._page = page
            self._map_tracked()
        return pid - page // 2

    def _map_tracked(self) -> None:
        """Map one page of `tracked`, not all: mapped pages count as memory of the daemon.

        It has two bytes for each process ID.
        """
        self._tracked = mmap.mmap(
            self.descriptors["map:tracked"], mmap.PAGESIZE, mmap.MAP_SHARED, offset=self._page
        )
        self._watch = memoryview(self._tracked).cast("H")

    def _unmap_tracked(self) -> None:
        self._watch.release()
        self._tracked.close()

    @property
    def allocation_program(self) -> int:
        """The descriptor of the program that allocation probes run."""
        return self.descriptors["program:on_allocation"]

    def expect_allocations(self, pid: int) -> None:
        """Prepare for allocation probes in a process: its budget, and a notice when it execs.

        Raises OSError if there are too many such processes.
        """
        self._probed[pack("=I", pid)] = bytes(layout_format(HITS).size)

    def urgently(self) -> list[int]:
        """Return the processes whose probes must be removed at once; poll `urgent.fd` for them."""
        return [unpack("=I", record)[0] for record in self.urgent.drain(1024)]

    def counters(self) -> dict[str, Counter]:
        """Return the counts of every event by name, summed over the CPUs."""
        found = {}
        for number, event in enumerate(EVENTS):
            rows = _COUNTER.iter_unpack(self._counters[pack("=I", number)])
            found[event.name] = Counter(*map(sum, zip(*rows, strict=True)))
        return found

    def newly_suppressed(self) -> dict[int, dict[str, int]]:
        """Return the events that limits suppressed since the last call, by process and event.

        The process `OTHERS` is for processes that had no space for a count of their own.
        """
        found: dict[int, dict[str, int]] = {}
        for key in list(self._buckets):
            _, total = _BUCKET.unpack(self._buckets[key])
            pid, event = _BUCKET_KEY.unpack(key)
            if count := total - self._suppressed.get(key, 0):
                found.setdefault(pid, {})[EVENTS[event].name] = count
            self._suppressed[key] = total
            if pid != OTHERS and not self.is_tracked(pid):
                del self._buckets[key], self._suppressed[key]
        return found

    def next_interval(self) -> int:
        """Begin a new interval of the statistics; returns the number of the old one.

        Programs that run now still count in the old one, for some microseconds. Collect it later.
        """
        ended, self._generation = self._generation, self._generation + 1 & 0xFFFFFFFF
        none = bytes(_STATISTIC.size * possible_cpus())
        self._others[pack("=I", self._generation & 1)] = none
        if self._wanted is not None:
            self.configure(self._wanted)
        return ended

    def collect(self, generation: int) -> dict[int, Statistic]:
        """Remove and return the statistics of an interval, by process.

        The process `OTHERS` is for processes that had no space for statistics of their own.
        """
        ended = [key for key in self._statistics if _STATISTIC_KEY.unpack(key)[0] == generation]
        found = {}
        for key in ended:
            found[_STATISTIC_KEY.unpack(key)[1]] = _sum(self._statistics[key])
            del self._statistics[key]
        others = _sum(self._others[pack("=I", generation & 1)])
        return found | ({OTHERS: others} if others != Statistic() else {})

    def detach(self) -> None:
        """Detach every tracepoint. Afterwards no event is recorded.

        That holds even if another process has the links open, such as systemd's descriptor store.
        """
        if self._wanted is not None:
            self.configure(replace(self._wanted, mask=0, prefixes=()))
        for name in [name for name in self.descriptors if name.startswith("link:")]:
            os.close(self.descriptors.pop(name))
        synchronize()

    def close(self) -> None:
        """Detach every probe, and close all descriptors."""
        self.ring.close()
        self.urgent.close()
        self._unmap_tracked()
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors = {}


def _sum(rows: bytes) -> Statistic:
    """Return the sum over the CPUs."""
    return sum((Statistic(*row) for row in _STATISTIC.iter_unpack(rows)), Statistic())


def _patterns(prefixes: tuple[bytes, ...]) -> bytes:
    """Return struct qmon_pattern[]: each prefix, and a mask of the bytes to compare."""
    rows = [
        prefix.ljust(PREFIX_MAX, b"\0") + b"\xff" * len(prefix) + bytes(PREFIX_MAX - len(prefix))
        for prefix in prefixes
    ]
    return b"".join(rows).ljust(PATTERN_MAX * 2 * PREFIX_MAX, b"\0")
