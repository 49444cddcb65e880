"""Events as what a trace viewer draws: tracks, and slices, instants and counters on them.

A process has a track with its life as a slice, and in it the guests that it ran one after the
other; each of its threads has one with its calls, which are points in time; and one of when it had
a CPU. What was read and written, and the statistics, are counters.

Only those who live are remembered, and some who ended lately.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

__all__ = ["Kind", "Mark", "Origin", "Track", "marks"]

Event = dict[str, Any]

_ASIDE: Final = frozenset({"ts", "event", "evt", "time", "pid", "tid", "arch", "guest"})
"""Keys that the track or the mark itself tells."""
_REMEMBERED: Final = 1000
"""Processes that have ended, of which lines may still come."""
_BYTES: Final = {"READ": "bytes read", "WRITE": "bytes written"}
_SUMS: Final = {"ALLOC_SUM": "allocations", "FREE_SUM": "frees", "MMAP_SUM": "mmap calls"}


class Kind:
    """What a mark is."""

    BEGIN: Final = 1
    END: Final = 2
    INSTANT: Final = 3
    COUNTER: Final = 4


class Track(NamedTuple):
    """A track: of a process, of its thread `tid`, or, where `tid` is 0, of what `name` says."""

    number: int
    name: str
    pid: int = 0
    tid: int = 0
    above: int = 0
    """The number of the track that it belongs to, or 0."""
    is_counter: bool = False
    unit: str = ""
    argv: tuple[str, ...] = ()
    start: int = 0
    """A process' start, in nanoseconds, or 0 where it is not known."""


class Mark(NamedTuple):
    """A slice's begin or end, a point in time, or a counter's value; `ts` in nanoseconds."""

    kind: int
    ts: int
    track: Track
    name: str = ""
    values: dict[str, Any] | None = None
    amount: int = 0


class Origin(NamedTuple):
    """Where the clock of the marks stands against the wall clock; both in nanoseconds."""

    ts: int
    wall: int


Pieces = Generator["Track | Mark", None, Track]


@dataclass(slots=True)
class _Life:
    """A process."""

    track: Track
    is_open: bool = False
    """Whether a slice of its life has begun; it has not where the events begin later."""
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
    """Yield tracks, each before its first mark, and marks, as the events come."""
    return _Tracks().all(events)


class _Tracks:
    """Knows who lives, and which slices are open."""

    def __init__(self) -> None:
        self._lives: dict[int, _Life] = {}
        self._threads: dict[int, int] = {}  # thread → its process
        self._ended: deque[_Life] = deque()
        self._shared: dict[str, Track] = {}
        self._tracks = 0
        self._clock = _Clock()

    def all(self, events: Iterable[Event]) -> Iterator[Origin | Track | Mark]:
        for event in events:
            ts, origin = self._clock.moment(event)
            if origin is not None:
                yield origin
            if self._clock.is_new_boot:
                self._lives.clear()
                self._threads.clear()
            yield from self._event(event, ts)

    def _event(self, event: Event, ts: int) -> Iterator[Track | Mark]:
        name = event.get("event")
        if name is None:
            yield from self._sums(event["evt"], event.get("meta") or {}, ts)
        elif name == "SCHED_SWITCH":
            yield from self._switch(event.get("prev_pid", -1), event.get("next_pid", -1), ts)
        elif event.get("pid", event.get("parent", -1)) == -1:
            track = yield from self._shared_track("qmond")
            yield Mark(Kind.INSTANT, ts, track, name, _values(event))
        elif name == "TRACK_ADOPT":
            yield from self._adopt(event, ts)
        else:
            yield from self._call(name, event, ts)

    # ---- processes -----------------------------------------------------------------------------

    def _adopt(self, event: Event, ts: int) -> Iterator[Track | Mark]:
        pid, known = event["pid"], self._lives.get(event["pid"])
        if known is None or known.has_ended or known.start not in {None, event.get("start")}:
            argv = tuple(map(str, event.get("argv") or ()))
            title = " ".join(argv) or str(event.get("bin"))
            known = yield from self._begin(pid, event, ts, title, argv)
        track = yield from self._thread(known, pid)
        yield Mark(Kind.INSTANT, ts, track, "TRACK_ADOPT", _values(event))

    def _call(self, name: str, event: Event, ts: int) -> Iterator[Track | Mark]:
        pid: int = event["pid"] if "pid" in event else event["parent"]
        life = self._lives.get(pid)
        if life is None:  # since before the first event
            about = yield from self._process(pid, str(event.get("guest", "")))
            life = self._lives[pid] = _Life(about)
        if not life.has_ended:
            yield from self._run(life, event, ts)
        track = yield from self._thread(life, event.get("tid", pid))
        yield Mark(Kind.INSTANT, ts, track, name, _values(event))
        if name in _BYTES and "len" in event:
            life.bytes[name] = life.bytes.get(name, 0) + event["len"]
            counter = yield from self._counter(life, _BYTES[name], "bytes")
            yield Mark(Kind.COUNTER, ts, counter, amount=life.bytes[name])
        elif name == "TRACK_FORK" and "child" in event:
            yield from self._begin(event["child"], event, ts, f"fork of {pid}", ())
        elif name == "EXEC":
            life.exec_ts = ts
        elif name == "EXIT":
            yield from self._end(life, ts, _values(event))

    def _begin(
        self, pid: int, event: Event, ts: int, title: str, argv: tuple[str, ...]
    ) -> Generator[Track | Mark, None, _Life]:
        before = self._lives.get(pid)
        if before is not None and not before.has_ended:  # its end was lost
            yield from self._end(before, ts, None)
        track = yield from self._process(pid, title, argv, round(event.get("start", 0) * 1e9))
        life = self._lives[pid] = _Life(track, is_open=True, start=event.get("start"))
        yield Mark(Kind.BEGIN, ts, track, title)
        yield from self._run(life, event, ts)
        return life

    def _run(self, life: _Life, event: Event, ts: int) -> Iterator[Mark]:
        """Begin another slice where a line names another guest than the last one did."""
        guest = event.get("guest")
        image = (event.get("arch"), guest)
        if guest is None or image == life.image:
            return
        # The line that names it first comes after it began, which is when it was asked for.
        began = life.exec_ts or ts
        if life.image is not None:
            yield Mark(Kind.END, began, life.track)
        life.image, life.exec_ts = image, 0
        yield Mark(Kind.BEGIN, began, life.track, str(guest), {"arch": event.get("arch", "native")})

    def _end(self, life: _Life, ts: int, values: dict[str, Any] | None) -> Iterator[Mark]:
        for thread in life.running:
            yield Mark(Kind.END, ts, life.cpus[thread])
        for _ in range((life.image is not None) + life.is_open):
            yield Mark(Kind.END, ts, life.track, "", values)
        for thread in life.threads:
            if self._threads.get(thread) == life.track.pid:
                del self._threads[thread]
        life.has_ended, life.running = True, set()
        self._ended.append(life)
        if len(self._ended) > _REMEMBERED:
            oldest = self._ended.popleft()
            if self._lives.get(oldest.track.pid) is oldest:
                del self._lives[oldest.track.pid]

    # ---- threads and counters ------------------------------------------------------------------

    def _switch(self, before: int, after: int, ts: int) -> Iterator[Track | Mark]:
        """Begin and end slices of the CPU; whose a thread is, another line has told."""
        for thread in (before, after):
            life = self._lives.get(self._threads.get(thread, -1))
            if life is None or (thread in life.running) == (thread == after):
                continue
            if thread not in life.cpus:
                above = life.threads[thread].number
                life.cpus[thread] = yield from self._new("on a CPU", above=above)
            if thread == after:
                life.running.add(thread)
                yield Mark(Kind.BEGIN, ts, life.cpus[thread], "running")
            else:
                life.running.discard(thread)
                yield Mark(Kind.END, ts, life.cpus[thread])

    def _sums(self, name: str, meta: dict[str, Any], ts: int) -> Iterator[Track | Mark]:
        title = _SUMS.get(name, name)
        by_pid = meta.get("by_pid")
        for pid, count in by_pid.items() if isinstance(by_pid, dict) else ():
            life = self._lives.get(int(pid)) if pid.isdecimal() else None
            if life is not None and isinstance(count, int):
                counter = yield from self._counter(life, title, "calls")
                yield Mark(Kind.COUNTER, ts, counter, amount=count)
        if isinstance(meta.get("count"), int):
            track = yield from self._shared_track(f"{title}, all", is_counter=True, unit="calls")
            yield Mark(Kind.COUNTER, ts, track, amount=meta["count"])

    def _counter(self, life: _Life, name: str, unit: str) -> Pieces:
        if name not in life.counters:
            above, pid = life.track.number, life.track.pid
            life.counters[name] = yield from self._new(
                name, pid=pid, above=above, is_counter=True, unit=unit
            )
        return life.counters[name]

    def _thread(self, life: _Life, tid: int) -> Pieces:
        if tid not in life.threads:
            pid, name = life.track.pid, life.track.name
            life.threads[tid] = yield from self._new(
                name, pid=pid, tid=tid, above=life.track.number
            )
        if not life.has_ended:
            self._threads[tid] = life.track.pid
        return life.threads[tid]

    def _process(self, pid: int, name: str, argv: tuple[str, ...] = (), start: int = 0) -> Pieces:
        return (yield from self._new(name, pid=pid, argv=argv, start=start))

    def _shared_track(self, name: str, *, is_counter: bool = False, unit: str = "") -> Pieces:
        if name not in self._shared:
            self._shared[name] = yield from self._new(name, is_counter=is_counter, unit=unit)
        return self._shared[name]

    def _new(self, name: str, **about: Any) -> Pieces:  # noqa: ANN401 - a Track's
        self._tracks += 1
        track = Track(self._tracks, name, **about)
        yield track
        return track


class _Clock:
    """Puts every event on the clock of the first one: another boot has another, from 0 on."""

    def __init__(self) -> None:
        self.is_new_boot = False
        self._boot: object = None
        self._origin: Origin | None = None
        self._shift = 0
        self._last = 0

    def moment(self, event: Event) -> tuple[int, Origin | None]:
        """Return an event's moment in ns, and where the clock stands as soon as that is known."""
        ts, self.is_new_boot = round(event["ts"] * 1_000_000) * 1000, False
        told = None
        wall = _wall(event)
        if self._origin is None and wall is not None:
            told = self._origin = Origin(ts, wall)
        if event.get("event") == "START":
            boot = event.get("boot_id")
            self.is_new_boot = self._boot not in {None, boot}
            # `timestamps: relative` begins anew with each daemon
            goes_back = ts + self._shift < self._last
            if (self.is_new_boot or goes_back) and self._origin is not None and wall is not None:
                self._shift = (wall - self._origin.wall) - (ts - self._origin.ts)
            self._boot = boot
        self._last = max(0, ts + self._shift)
        return self._last, told


def _wall(event: Event) -> int | None:
    try:
        moment = datetime.fromisoformat(event["time"])
        return round(moment.timestamp() * 1_000_000) * 1000
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def _values(event: Event) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in _ASIDE and value is not None}
