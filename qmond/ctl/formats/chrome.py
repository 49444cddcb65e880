"""Traces in Chrome's Trace Event Format (JSON), which many viewers read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from qmond.ctl.formats.tracks import Kind, Mark, Track, marks
from qmond.escape import json_bytes

__all__ = ["trace"]

_PHASES: Final = {Kind.BEGIN: "B", Kind.END: "E", Kind.INSTANT: "i", Kind.COUNTER: "C"}
_ASYNC: Final = {Kind.BEGIN: "b", Kind.END: "e"}


def trace(events: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """Yield the bytes of a trace, in chunks.

    The format names a process by its ID alone. So processes that have the same ID, one after the
    other, share a row.
    """
    separator = b'{"displayTimeUnit":"ns","traceEvents":[\n'
    for item in marks(events):
        entry = _metadata(item) if isinstance(item, Track) else None
        if isinstance(item, Mark):
            entry = _trace_event(item)
        if entry is not None:
            yield separator + json_bytes(entry)
            separator = b",\n"
    yield (separator if separator.startswith(b"{") else b"") + b"\n]}\n"


def _metadata(track: Track) -> dict[str, Any] | None:
    """Return the metadata event with the name of a row.

    Counters and slices of a CPU need none: their events have the name.
    """
    if track.is_counter or not track.pid:
        return None
    kind = "thread_name" if track.tid else "process_name"
    entry = {"ph": "M", "name": kind, "pid": track.pid, "args": {"name": track.name}}
    return entry | ({"tid": track.tid} if track.tid else {})


def _trace_event(mark: Mark) -> dict[str, Any]:
    track = mark.track
    entry: dict[str, Any] = {
        "ph": _PHASES[mark.kind],
        "ts": mark.ts / 1000,  # microseconds
        "pid": track.pid,
        "tid": track.tid or track.pid,  # the slices of a process are on its first thread's row
        "name": mark.name,
    }
    if mark.kind == Kind.COUNTER:
        return entry | {"name": track.name, "args": {track.unit: mark.amount}}
    if mark.kind == Kind.INSTANT:
        entry["s"] = "t"  # on its thread's row
    elif not track.pid:  # slices of a CPU overlap those of processes: they get a row of their own
        entry |= {"ph": _ASYNC[mark.kind], "cat": "cpu", "id": track.number, "name": "running"}
    return entry | ({"args": mark.values} if mark.values else {})
