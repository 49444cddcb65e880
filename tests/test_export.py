"""Exports, read back by others' parsers: Perfetto's own classes, and Python's csv."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from qmond.ctl import main
from qmond.ctl.export import COLUMNS, table
from qmond.ctl.lines import read
from qmond.ctl.perfetto import packets
from qmond.errors import QmondError
from qmond.protocol import KEYS

EVENTS: list[dict[str, Any]] = [
    {"ts": 1.0, "event": "START", "message": "on"},
    {"ts": 1.5, "event": "TRACK_ADOPT", "pid": 7, "guest": "/bin/sh", "argv": ["sh", "-c"]},
    {"ts": 2.0, "event": "WRITE", "pid": 7, "tid": 8, "fd": 1, "buf": '=1+1,"x"\n', "fault": True},
    {"ts": 2.5, "event": "TRACK_FORK", "parent": 7, "child": 9, "tid": 7},
    {"ts": 2.6, "evt": "ALLOC_SUM", "pid": -1, "meta": {"count": 5, "by_pid": {"7": 3}}},
    {"ts": 3.0, "event": "EXIT", "pid": 9, "code": 0, "signal": None},
    {"ts": 4.0, "event": "TRACK_ADOPT", "pid": 9, "guest": "/bin/again", "argv": []},
    {"ts": 5.0, "event": "OF_A_LATER_VERSION", "pid": 7, "new": -3, "list": [1]},
]


def trace() -> tuple[dict[int, Any], list[Any]]:
    """Return what Perfetto's classes find: tracks by number, and packets with an event."""
    parsed = Trace.FromString(b"".join(packets(EVENTS)))
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in parsed.packet
              if p.HasField("track_descriptor")}  # fmt: skip
    events = [packet for packet in parsed.packet if packet.HasField("track_event")]
    assert len(tracks) + len(events) == len(parsed.packet)
    assert all(packet.track_event.track_uuid in tracks for packet in events)
    return tracks, events


def test_lives_are_slices() -> None:
    tracks, events = trace()
    slices: list[tuple[Any, ...]] = []
    for packet in events:
        event = packet.track_event
        if event.type in {TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END}:
            process = tracks[event.track_uuid].process
            slices.append((packet.timestamp, event.type, process.pid, event.name))
    begin, end = TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END
    assert slices == [
        (1_500_000_000, begin, 7, "/bin/sh"),
        (2_500_000_000, begin, 9, "fork"),
        (3_000_000_000, end, 9, ""),
        (4_000_000_000, begin, 9, "/bin/again"),
        (5_000_000_000, end, 7, ""),
        (5_000_000_000, end, 9, ""),
    ]
    processes = [track.process.pid for track in tracks.values() if track.HasField("process")]
    assert sorted(processes) == [7, 9, 9], "a number that is used again is another process"


def test_calls_are_instants_with_what_they_hold() -> None:
    tracks, events = trace()
    found = next(packet for packet in events if packet.track_event.name == "WRITE")
    thread = tracks[found.track_event.track_uuid].thread
    assert (found.timestamp, thread.pid, thread.tid) == (2_000_000_000, 7, 8)
    notes = {note.name: note for note in found.track_event.debug_annotations}
    assert notes["fd"].int_value == 1
    assert notes["buf"].string_value == '=1+1,"x"\n'
    assert notes["fault"].bool_value is True
    later = next(p for p in events if p.track_event.name == "OF_A_LATER_VERSION").track_event
    assert {note.name: note.int_value for note in later.debug_annotations}["new"] == -3


def test_statistics_are_counters() -> None:
    tracks, events = trace()
    counted = [
        (tracks[p.track_event.track_uuid].name, p.track_event.counter_value)
        for p in events
        if p.track_event.type == TrackEvent.TYPE_COUNTER
    ]
    assert counted == [("ALLOC_SUM", 3), ("ALLOC_SUM, all", 5)]
    assert all(t.HasField("counter") for t in tracks.values() if t.name.startswith("ALLOC"))


def test_a_table_in_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(b"".join(table(EVENTS)).decode(), newline="")))
    assert len(rows) == len(EVENTS)
    assert rows[2]["buf"] == '\'=1+1,"x"\n'
    assert (rows[2]["fd"], rows[2]["fault"]) == ("1", "true")
    assert rows[4]["event"] == "ALLOC_SUM"
    assert json.loads(rows[1]["argv"]) == ["sh", "-c"]
    assert rows[0]["pid"] == ""
    assert set(COLUMNS) == KEYS - {"evt"}


def test_files_of_all_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps(event).encode() + b"\n" for event in EVENTS]
    (tmp_path / "events-20261121T080000.000000Z.jsonl.gz").write_bytes(gzip.compress(lines[0]))
    packed = zstandard.ZstdCompressor().compress(lines[1])
    (tmp_path / "events-20261122T080000.000000Z.jsonl.zst").write_bytes(packed)
    torn = lines[3][:20] + b"\n[]\n" + b"\xff\n" * 9
    (tmp_path / "events.jsonl").write_bytes(lines[2] + torn + lines[3])
    assert list(read([tmp_path])) == EVENTS[:4]
    said = capsys.readouterr().err
    assert f"{tmp_path}/events.jsonl:2: no whole event" in said
    assert "11 lines in all were left out" in said


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(QmondError, match=r"none: No such file"):
        list(read([tmp_path / "none"]))
    with pytest.raises(QmondError, match=r"no events\.jsonl is in it"):
        list(read([tmp_path]))
    (tmp_path / "events.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(QmondError, match=r"gz"):
        list(read([tmp_path / "events.jsonl.gz"]))


def test_the_verb(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    file, out = tmp_path / "events.jsonl", tmp_path / "run.pftrace"
    file.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    assert main(["export", "--format", "perfetto", "-o", str(out), str(file)]) == 0
    assert len(Trace.FromString(out.read_bytes()).packet) > len(EVENTS)
    assert main(["export", "--format", "csv", str(file)]) == 0
    assert capsysbinary.readouterr().out.startswith(b"ts,time,seq,event,pid")
    assert main(["export", "--format", "csv", "-o", "/no/such/x", str(file)]) == 1
