"""Events as a trace for Perfetto's UI: processes and threads as tracks, lives as slices.

The format is a protobuf, protos/perfetto/trace/trace.proto in Perfetto: a Trace is packets one
after the other, so that it is written as it comes. The field numbers stand where they are used.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any, Final

__all__ = ["packets"]

_SLICE_BEGIN, _SLICE_END, _INSTANT, _COUNTER = 1, 2, 3, 4  # TrackEvent.Type
_SEQUENCE: Final = 1
_ASIDE: Final = {"ts", "event", "evt", "time", "pid", "tid", "arch", "guest"}


def packets(events: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """Yield a trace's bytes, piece by piece."""
    return _Writer().all(events)


# ---- protobuf: encoding.md of its documentation --------------------------------------------------


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode("utf-8", "replace"))


# ---- the trace -----------------------------------------------------------------------------------


class _Writer:
    """Knows which tracks there are, and which slices are open."""

    def __init__(self) -> None:
        self._tracks: dict[object, int] = {}
        self._open: set[int] = set()  # processes with a slice
        self._lives: dict[int, int] = {}  # how many processes of this number there were

    def all(self, events: Iterable[dict[str, Any]]) -> Iterator[bytes]:
        last = 0
        for event in events:
            last = round(event["ts"] * 1e9)
            yield from self._event(event, last)
        for pid in sorted(self._open):
            yield from self._end(pid, last)

    def _event(self, event: dict[str, Any], ts: int) -> Iterator[bytes]:
        name = event.get("event") or event["evt"]
        if "evt" in event:
            yield from self._counters(name, event.get("meta") or {}, ts)
            return
        pid = event.get("pid", event.get("parent", event.get("prev_pid", -1)))
        if name == "TRACK_ADOPT":
            yield from self._end(pid, ts)
            yield from self._begin(pid, event.get("guest") or event.get("bin") or "?", ts)
        elif name == "TRACK_FORK":
            yield from self._begin(event["child"], "fork", ts)
        if pid == -1:
            track = yield from self._track("qmond", _text(2, "qmond"))
        else:
            yield from self._process(pid, event.get("guest") or "?")
            track = yield from self._thread(pid, event.get("tid", pid))
        yield _packet(ts, _INSTANT, track, _text(23, name) + _annotations(event))
        if name == "EXIT":
            yield from self._end(pid, ts)
            self._lives[pid] = self._lives.get(pid, 0) + 1  # the number may be used again

    def _begin(self, pid: int, name: str, ts: int) -> Iterator[bytes]:
        track = yield from self._process(pid, name)
        self._open.add(pid)
        yield _packet(ts, _SLICE_BEGIN, track, _text(23, name))

    def _end(self, pid: int, ts: int) -> Iterator[bytes]:
        if pid in self._open:
            self._open.discard(pid)
            track = yield from self._process(pid, "?")
            yield _packet(ts, _SLICE_END, track)

    def _counters(self, name: str, meta: dict[str, Any], ts: int) -> Iterator[bytes]:
        for pid, value in (meta.get("by_pid") or {}).items():
            if pid.isdecimal() and int(pid) in self._open:
                above = yield from self._process(int(pid), "?")
                described = _text(2, name) + _number(5, above) + _bytes(8, b"")
                track = yield from self._track((name, int(pid), self._life(int(pid))), described)
                yield _packet(ts, _COUNTER, track, _number(30, value))
        track = yield from self._track(name, _text(2, f"{name}, all") + _bytes(8, b""))
        yield _packet(ts, _COUNTER, track, _number(30, meta.get("count", 0)))

    def _life(self, pid: int) -> int:
        return self._lives.get(pid, 0)

    def _process(self, pid: int, name: str) -> Generator[bytes, None, int]:
        described = _bytes(3, _number(1, pid) + _text(6, name))  # ProcessDescriptor
        return (yield from self._track((pid, self._life(pid)), described))

    def _thread(self, pid: int, tid: int) -> Generator[bytes, None, int]:
        described = _bytes(4, _number(1, pid) + _number(2, tid))  # ThreadDescriptor
        return (yield from self._track((pid, tid, self._life(pid)), described))

    def _track(self, key: object, described: bytes) -> Generator[bytes, None, int]:
        """Return a track's number, after telling of it where it is new."""
        if key not in self._tracks:
            self._tracks[key] = len(self._tracks) + 1
            descriptor = _number(1, self._tracks[key]) + described
            yield _bytes(1, _bytes(60, descriptor) + _number(10, _SEQUENCE))
        return self._tracks[key]


def _packet(ts: int, kind: int, track: int, more: bytes = b"") -> bytes:
    event = _number(9, kind) + _number(11, track) + more  # TrackEvent
    return _bytes(1, _number(8, ts) + _bytes(11, event) + _number(10, _SEQUENCE))


def _annotations(event: dict[str, Any]) -> bytes:
    found = b""
    for key, value in event.items():
        if key in _ASIDE or value is None:
            continue
        if isinstance(value, bool):
            told = _number(2, int(value))
        elif isinstance(value, int):
            told = _number(4, value)
        else:
            told = _text(6, value if isinstance(value, str) else str(value))
        found += _bytes(4, _text(10, key) + told)  # DebugAnnotation
    return found
