"""A trace in the JSON of Chrome's Trace Event Format, which many viewers read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from qmond.ctl.formats.tracks import Kind, Mark, Track, marks
from qmond.escape import json_bytes

__all__ = ["trace"]

_PHASES: Final = {Kind.BEGIN: "B", Kind.END: "E", Kind.INSTANT: "i", Kind.COUNTER: "C"}
_ASYNC: Final = {Kind.BEGIN: "b", Kind.END: "e"}


def trace(events: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """Yield a trace's bytes, piece by piece.

    Two processes of one number, one after the other, are one row here: the format has no other name
    for them.
    """
    before = b'{"displayTimeUnit":"ns","traceEvents":[\n'
    for found in marks(events):
        told = _name(found) if isinstance(found, Track) else None
        if isinstance(found, Mark):
            told = _mark(found)
        if told is not None:
            yield before + json_bytes(told)
            before = b",\n"
    yield (before if before.startswith(b"{") else b"") + b"\n]}\n"


def _name(track: Track) -> dict[str, Any] | None:
    """Return what gives a row its name; counters and slices have it in each of their events."""
    if track.is_counter or not track.pid:
        return None
    kind = "thread_name" if track.tid else "process_name"
    about = {"ph": "M", "name": kind, "pid": track.pid, "args": {"name": track.name}}
    return about | ({"tid": track.tid} if track.tid else {})


def _mark(mark: Mark) -> dict[str, Any]:
    track = mark.track
    found: dict[str, Any] = {
        "ph": _PHASES[mark.kind],
        "ts": mark.ts / 1000,  # microseconds
        "pid": track.pid,
        "tid": track.tid or track.pid,  # a process' life is on its first thread's row
        "name": mark.name,
    }
    if mark.kind == Kind.COUNTER:
        return found | {"name": track.name, "args": {track.unit: mark.amount}}
    if mark.kind == Kind.INSTANT:
        found["s"] = "t"  # on its thread's row
    elif not track.pid:  # a CPU's slices cross the lives', so they get a row of their own
        found |= {"ph": _ASYNC[mark.kind], "cat": "cpu", "id": track.number, "name": "running"}
    return found | ({"args": mark.values} if mark.values else {})
