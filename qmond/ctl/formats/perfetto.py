"""Traces for Perfetto's UI.

The format is a protobuf: protos/perfetto/trace/trace.proto in Perfetto. A Trace is a sequence of
packets, so it can be written as a stream. The numbers in the code are those of protobuf fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

from qmond.ctl.formats.tracks import Kind, Mark, Origin, Track, marks

__all__ = ["packets"]

_VARINT, _LENGTH = 0, 2  # wire types
_REALTIME, _MONOTONIC = 1, 3  # BuiltinClock
_UNITS: Final = {"bytes": 3}  # CounterDescriptor.Unit


def packets(events: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """Yield the bytes of a trace, in chunks."""
    for item in marks(events):
        match item:
            case Mark():
                yield _track_event(item)
            case Track():
                yield _packet(60, _track_descriptor(item))
            case Origin():
                yield _packet(6, _clock_snapshot(item))


# ---- the protobuf wire format: https://protobuf.dev/programming-guides/encoding ------------------


_ONE_BYTE: Final = tuple(bytes([value]) for value in range(0x80))


def _varint(value: int) -> bytes:
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    value &= (1 << 64) - 1  # negative: two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _LENGTH) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode("utf-8", "replace"))


# ---- the trace -----------------------------------------------------------------------------------

_SEQUENCE: Final = _number(10, 1)  # trusted_packet_sequence_id
_CLOCK: Final = _number(58, _MONOTONIC)  # timestamp_clock_id


def _packet(field: int, value: bytes) -> bytes:
    return _bytes(1, _bytes(field, value) + _SEQUENCE)


def _clock_snapshot(origin: Origin) -> bytes:
    """Return a ClockSnapshot: the trace's clock is monotonic, the wall clock is given with it."""
    clocks = ((_MONOTONIC, origin.ts), (_REALTIME, origin.wall))
    snapshot = b"".join(_bytes(1, _number(1, clock) + _number(2, at)) for clock, at in clocks)
    return snapshot + _number(2, _MONOTONIC)  # primary_trace_clock


def _track_descriptor(track: Track) -> bytes:
    descriptor = _number(1, track.number)
    if track.parent:
        descriptor += _number(5, track.parent)
    if track.is_counter:
        unit = _number(3, _UNITS[track.unit]) if track.unit in _UNITS else _text(6, track.unit)
        return descriptor + _text(2, track.name) + _bytes(8, unit)
    if track.tid:  # ThreadDescriptor
        thread = _number(1, track.pid) + _number(2, track.tid) + _text(5, track.name)
        return descriptor + _bytes(4, thread)
    if track.pid:  # ProcessDescriptor
        process = _number(1, track.pid) + b"".join(_text(2, word) for word in track.argv)
        process += _text(6, track.name) + (_number(7, track.start) if track.start else b"")
        return descriptor + _bytes(3, process)
    return descriptor + _text(2, track.name)


def _track_event(mark: Mark) -> bytes:
    event = _number(9, mark.kind) + _number(11, mark.track.number)
    if mark.name:
        event += _text(23, mark.name)
    if mark.kind == Kind.COUNTER:
        event += _number(30, mark.amount)
    for key, value in (mark.values or {}).items():
        event += _bytes(4, _text(10, key) + _value(value))  # DebugAnnotation
    return _bytes(1, _number(8, mark.ts) + _bytes(11, event) + _SEQUENCE + _CLOCK)


def _value(value: object) -> bytes:
    if isinstance(value, bool):
        return _number(2, int(value))
    if isinstance(value, int):
        return _number(3, value) if value >= 0 else _number(4, value)
    if isinstance(value, str):
        return _text(6, value)
    return _bytes(6, orjson.dumps(value))
