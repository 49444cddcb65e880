"""Events as the elements of a trace: tracks, with slices, instants and counters on them.

A process has a track. A slice on it lasts as long as the process, and slices within it show the
guests that it ran, one after the other. Each thread has two tracks: its calls are instants on one,
and slices on the other show when it ran on a CPU. Bytes read and written, and the statistics, are
counters.

Only running processes are kept in memory, and those that ended last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

__all__ = ["Kind", "Mark", "Origin", "Track", "marks"]

Event = dict[str, Any]

_ASIDE: Final = frozenset(
    {"ts", "event", "evt", "time", "pid", "tid", "arch", "guest", "guest_path"}
)
"""Keys that are not among the values of a mark: the track or the mark has them itself."""
_REMEMBERED: Final = 1000
"""How many ended processes are kept: their last lines may come after their end."""
_BYTES: Final = {"READ": "bytes read", "WRITE": "bytes written"}
_SUMS: Final = {"ALLOC_SUM": "allocations", "FREE_SUM": "frees", "MMAP_SUM": "mmap calls"}


class Kind:
    """The kinds of a mark, with the numbers of Perfetto's TrackEvent.Type."""

    BEGIN: Final = 1
    END: Final = 2
    INSTANT: Final = 3
    COUNTER: Final = 4


class Track(NamedTuple):
    """A track of a process (`pid`), of a thread (`pid`, `tid`), or of neither (both are 0)."""

    number: int
    name: str
    pid: int = 0
    tid: int = 0
    parent: int = 0
    """The number of the parent track, or 0."""
    is_counter: bool = False
    unit: str = ""
    argv: tuple[str, ...] = ()
    start: int = 0
    """The start of the process, in nanoseconds since boot, or 0 if unknown."""


class Mark(NamedTuple):
    """The begin or end of a slice, an instant, or a value of a counter; `ts` in nanoseconds."""

    kind: int
    ts: int
    track: Track
    name: str = ""
    values: dict[str, Any] | None = None
    amount: int = 0


class Origin(NamedTuple):
    """The wall clock at one time of the marks' clock; both in nanoseconds."""

    ts: int
    wall: int


YieldedTrack = Generator["Track | Mark", None, Track]
"""Yields a track if it is new, and returns it."""


@dataclass(slots=True)
class _Process:
    """A process: its tracks, and the slices that are open on them."""

    track: Track
    is_open: bool = False
    """Whether its own slice has begun. It has not if the process is older than the first event."""
    start: object = None
    image: tuple[object, object] | None = None
    exec_ts: int = 0
    threads: dict[int, Track] = field(default_factory=dict)
    cpus: dict[int, Track] = field(default_factory=dict)
    counters: dict[str, Track] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    bytes: dict[str, int] = field(default_factory=dict)
    has_ended: bool = False


def marks(events: Iterable[Event]) -> Iterator[Origin | Track | Mark]:
    """Yield the marks of events, in their order, and each track before its first mark."""
    return _Tracks().all(events)


class _Tracks:
    """Makes the marks of all events: it has the running processes and their open slices."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._threads: dict[int, int] = {}  # thread → its process
        self._ended: deque[_Process] = deque()
        self._shared: dict[str, Track] = {}
        self._track_count = 0
        self._clock = _Clock()

    def all(self, events: Iterable[Event]) -> Iterator[Origin | Track | Mark]:
        for event in events:
            ts, origin = self._clock.moment(event)
            if origin is not None:
                yield origin
            if self._clock.is_new_boot:
                self._processes.clear()
                self._threads.clear()
            yield from self._event(event, ts)

    def _event(self, event: Event, ts: int) -> Iterator[Track | Mark]:
        name = event.get("event")
        if name is None:
            yield from self._sums(event["evt"], event.get("meta") or {}, ts)
        elif name == "SCHED_SWITCH":
            before, after = event.get("prev_pid", -1), event.get("next_pid", -1)
            yield from self._switching_threads(event, before, after)
            yield from self._switch(before, after, ts)
        elif event.get("pid", event.get("parent", -1)) == -1:
            track = yield from self._shared_track("qmond")
            yield Mark(Kind.INSTANT, ts, track, name, _values(event))
        elif name == "TRACK_ADOPT":
            yield from self._adopt(event, ts)
        else:
            yield from self._event_of_process(name, event, ts)

    # ---- processes -----------------------------------------------------------------------------

    def _adopt(self, event: Event, ts: int) -> Iterator[Track | Mark]:
        pid, known = event["pid"], self._processes.get(event["pid"])
        if known is None or known.has_ended or known.start not in {None, event.get("start")}:
            argv = tuple(map(str, event.get("argv") or ()))
            title = " ".join(argv) or str(event.get("bin"))
            known = yield from self._begin(pid, event, ts, title, argv)
        track = yield from self._thread_track(known, pid)
        yield Mark(Kind.INSTANT, ts, track, "TRACK_ADOPT", _values(event))

    def _event_of_process(self, name: str, event: Event, ts: int) -> Iterator[Track | Mark]:
        pid: int = event["pid"] if "pid" in event else event["parent"]
        process = self._processes.get(pid)
        if process is None:  # it is older than the first event
            of_process = yield from self._process_track(pid, str(event.get("guest", "")))
            process = self._processes[pid] = _Process(of_process)
        if not process.has_ended:
            yield from self._begin_image(process, event, ts)
        track = yield from self._thread_track(process, event.get("tid", pid))
        yield Mark(Kind.INSTANT, ts, track, name, _values(event))
        if name in _BYTES and "len" in event:
            process.bytes[name] = process.bytes.get(name, 0) + event["len"]
            counter = yield from self._counter_track(process, _BYTES[name], "bytes")
            yield Mark(Kind.COUNTER, ts, counter, amount=process.bytes[name])
        elif name == "TRACK_FORK" and "child" in event:
            yield from self._begin(event["child"], event, ts, f"fork of {pid}", ())
        elif name == "EXEC":
            process.exec_ts = ts
        elif name == "EXIT":
            yield from self._end(process, ts, _values(event))

    def _begin(
        self, pid: int, event: Event, ts: int, title: str, argv: tuple[str, ...]
    ) -> Generator[Track | Mark, None, _Process]:
        before = self._processes.get(pid)
        if before is not None and not before.has_ended:  # its end was lost
            yield from self._end(before, ts, None)
        track = yield from self._process_track(pid, title, argv, round(event.get("start", 0) * 1e9))
        process = self._processes[pid] = _Process(track, is_open=True, start=event.get("start"))
        yield Mark(Kind.BEGIN, ts, track, title)
        yield from self._begin_image(process, event, ts)
        return process

    def _begin_image(self, process: _Process, event: Event, ts: int) -> Iterator[Mark]:
        """Begin another slice if an event names another guest than the last one did."""
        guest = event.get("guest")
        image = (event.get("arch"), guest)
        if guest is None or image == process.image:
            return
        # The guest began at its EXEC, before the first event that names it.
        began = process.exec_ts or ts
        if process.image is not None:
            yield Mark(Kind.END, began, process.track)
        process.image, process.exec_ts = image, 0
        yield Mark(
            Kind.BEGIN, began, process.track, str(guest), {"arch": event.get("arch", "native")}
        )

    def _end(self, process: _Process, ts: int, values: dict[str, Any] | None) -> Iterator[Mark]:
        for thread in process.running:
            yield Mark(Kind.END, ts, process.cpus[thread])
        for _ in range((process.image is not None) + process.is_open):
            yield Mark(Kind.END, ts, process.track, "", values)
        for thread in process.threads:
            if self._threads.get(thread) == process.track.pid:
                del self._threads[thread]
        process.has_ended, process.running = True, set()
        self._ended.append(process)
        if len(self._ended) > _REMEMBERED:
            oldest = self._ended.popleft()
            if self._processes.get(oldest.track.pid) is oldest:
                del self._processes[oldest.track.pid]

    # ---- threads and counters ------------------------------------------------------------------

    def _switching_threads(self, event: Event, before: int, after: int) -> Iterator[Track | Mark]:
        """Begin the tracks of threads whose process this context switch tells."""
        owners: dict[int, int] = {}
        if "next_tgid" in event:
            owners = {before: event["pid"], after: event["next_tgid"]}
        elif "pid" in event and 0 in {before, after}:  # 0 is an idle CPU: the other is watched
            owners = {before or after: event["pid"]}
        for thread, pid in owners.items():
            process = self._processes.get(pid)
            if process is not None and not process.has_ended:
                yield from self._thread_track(process, thread)

    def _switch(self, before: int, after: int, ts: int) -> Iterator[Track | Mark]:
        """Begin and end slices of CPUs, for threads whose process is known."""
        for thread in (before, after):
            process = self._processes.get(self._threads.get(thread, -1))
            if process is None or (thread in process.running) == (thread == after):
                continue
            if thread not in process.cpus:
                parent = process.threads[thread].number
                process.cpus[thread] = yield from self._new_track("on a CPU", parent=parent)
            if thread == after:
                process.running.add(thread)
                yield Mark(Kind.BEGIN, ts, process.cpus[thread], "running")
            else:
                process.running.discard(thread)
                yield Mark(Kind.END, ts, process.cpus[thread])

    def _sums(self, name: str, meta: dict[str, Any], ts: int) -> Iterator[Track | Mark]:
        title = _SUMS.get(name, name)
        by_pid = meta.get("by_pid")
        for pid, count in by_pid.items() if isinstance(by_pid, dict) else ():
            process = self._processes.get(int(pid)) if pid.isdecimal() else None
            if process is not None and isinstance(count, int):
                counter = yield from self._counter_track(process, title, "calls")
                yield Mark(Kind.COUNTER, ts, counter, amount=count)
        if isinstance(meta.get("count"), int):
            track = yield from self._shared_track(f"{title}, all", is_counter=True, unit="calls")
            yield Mark(Kind.COUNTER, ts, track, amount=meta["count"])

    def _counter_track(self, process: _Process, name: str, unit: str) -> YieldedTrack:
        if name not in process.counters:
            parent, pid = process.track.number, process.track.pid
            process.counters[name] = yield from self._new_track(
                name, pid=pid, parent=parent, is_counter=True, unit=unit
            )
        return process.counters[name]

    def _thread_track(self, process: _Process, tid: int) -> YieldedTrack:
        if tid not in process.threads:
            pid, name = process.track.pid, process.track.name
            process.threads[tid] = yield from self._new_track(
                name, pid=pid, tid=tid, parent=process.track.number
            )
        if not process.has_ended:
            self._threads[tid] = process.track.pid
        return process.threads[tid]

    def _process_track(
        self, pid: int, name: str, argv: tuple[str, ...] = (), start: int = 0
    ) -> YieldedTrack:
        return (yield from self._new_track(name, pid=pid, argv=argv, start=start))

    def _shared_track(self, name: str, *, is_counter: bool = False, unit: str = "") -> YieldedTrack:
        if name not in self._shared:
            self._shared[name] = yield from self._new_track(name, is_counter=is_counter, unit=unit)
        return self._shared[name]

    def _new_track(self, name: str, **about: Any) -> YieldedTrack:  # noqa: ANN401 - a Track's
        self._track_count += 1
        track = Track(self._track_count, name, **about)
        yield track
        return track


class _Clock:
    """Converts the times of all boots to the clock of the first one, by the wall clock."""

    def __init__(self) -> None:
        self.is_new_boot = False
        self._boot: object = None
        self._origin: Origin | None = None
        self._shift = 0
        self._last = 0

    def moment(self, event: Event) -> tuple[int, Origin | None]:
        """Return the time of an event in ns, and the Origin once, when it becomes known."""
        ts, self.is_new_boot = round(event["ts"] * 1_000_000) * 1000, False
        origin = None
        wall = _wall(event)
        if self._origin is None and wall is not None:
            origin = self._origin = Origin(ts, wall)
        if event.get("event") == "START":
            boot = event.get("boot_id")
            self.is_new_boot = self._boot not in {None, boot}
            # with `timestamps: relative`, each daemon counts from its own start
            goes_back = ts + self._shift < self._last
            if (self.is_new_boot or goes_back) and self._origin is not None and wall is not None:
                self._shift = (wall - self._origin.wall) - (ts - self._origin.ts)
            self._boot = boot
        self._last = max(0, ts + self._shift)
        return self._last, origin


def _wall(event: Event) -> int | None:
    try:
        moment = datetime.fromisoformat(event["time"])
        return round(moment.timestamp() * 1_000_000) * 1000
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def _values(event: Event) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in _ASIDE and value is not None}
