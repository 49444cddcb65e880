"""Exports, read back by others' parsers: Perfetto's own classes, Python's csv and json."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from qmond.ctl import main
from qmond.ctl.formats.chrome import trace as chrome_trace
from qmond.ctl.formats.lines import Reading, read
from qmond.ctl.formats.perfetto import packets
from qmond.ctl.formats.table import COLUMNS, table
from qmond.errors import QmondError
from qmond.lognames import rotated_files
from qmond.server.arguments import KEYS

ARM = {"arch": "arm", "guest": "/bin/sh"}
TIME = "2026-11-23T08:00:01.000000Z"
EVENTS: list[dict[str, Any]] = [
    {"ts": 1.0, "event": "START", "message": "on", "boot_id": "b", "time": TIME},
    {"ts": 1.5, "event": "TRACK_ADOPT", "pid": 7, "argv": ["sh", "-c"], "start": 1.25, **ARM},
    {"ts": 2.0, "event": "WRITE", "pid": 7, "tid": 8, "fd": 1, "buf": '=1+1,"x"\n', "fault": True,
     "len": 9, **ARM},
    {"ts": 2.1, "event": "SENDTO", "pid": 7, "tid": 7, "len": 2**64 - 1, **ARM},
    {"ts": 2.2, "event": "SCHED_SWITCH", "prev_pid": 99, "next_pid": 8},
    {"ts": 2.3, "event": "SCHED_SWITCH", "prev_pid": 8, "next_pid": 99},
    {"ts": 2.5, "event": "TRACK_FORK", "parent": 7, "child": 9, "start": 2.5, "tid": 7, **ARM},
    {"ts": 2.6, "evt": "ALLOC_SUM", "pid": -1, "meta": {"count": 5, "by_pid": {"7": 3}}},
    {"ts": 2.7, "event": "EXEC", "pid": 9, "tid": 9, "filename": "/bin/echo", **ARM},
    {"ts": 2.9, "event": "WRITE", "pid": 9, "tid": 9, "fd": 1, "buf": "x", "len": 1,
     "guest": "/bin/echo"},
    {"ts": 3.0, "event": "EXIT", "pid": 9, "code": 0, "signal": None, "guest": "/bin/echo"},
    {"ts": 4.0, "event": "TRACK_ADOPT", "pid": 9, "argv": [], "bin": "again", "start": 4.0},
    {"ts": 5.0, "event": "OF_A_LATER_VERSION", "pid": 7, "new": -3, "list": [1]},
    {"ts": 5.5, "event": "LOST", "stage": "ring", "count": 2, "by_event": {"READ": 2}},
]  # fmt: skip
BEGIN, END = TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END


def trace(given: list[dict[str, Any]] = EVENTS) -> tuple[dict[int, Any], list[Any]]:
    """Return what Perfetto's classes find: tracks by number, and packets with an event."""
    parsed = Trace.FromString(b"".join(packets(given)))
    tracks: dict[int, Any] = {}
    events = []
    for packet in parsed.packet:
        assert packet.trusted_packet_sequence_id == 1
        if packet.HasField("track_descriptor"):
            assert packet.track_descriptor.uuid not in tracks
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        elif packet.HasField("track_event"):
            assert packet.track_event.track_uuid in tracks, "each track is told before its events"
            assert packet.timestamp_clock_id == 3
            events.append(packet)
        else:
            assert packet.HasField("clock_snapshot")
    return tracks, events


def slices(tracks: dict[int, Any], events: list[Any], *, cpu: bool = False) -> list[Any]:
    found: list[tuple[float, int, int, str]] = []
    for packet in events:
        event, track = packet.track_event, tracks[packet.track_event.track_uuid]
        if event.type in {BEGIN, END} and track.HasField("process") is not cpu:
            found.append((packet.timestamp / 1e9, event.type, track.process.pid, event.name))
    return found


def test_lives_are_slices_and_images_are_in_them() -> None:
    tracks, events = trace()
    assert slices(tracks, events) == [
        (1.5, BEGIN, 7, "sh -c"),
        (1.5, BEGIN, 7, "/bin/sh"),
        (2.5, BEGIN, 9, "fork of 7"),
        (2.5, BEGIN, 9, "/bin/sh"),
        (2.7, END, 9, ""),  # where the EXEC is, not where the new guest is named first
        (2.7, BEGIN, 9, "/bin/echo"),
        (3.0, END, 9, ""),
        (3.0, END, 9, ""),
        (4.0, BEGIN, 9, "again"),
    ]
    processes = [track.process for track in tracks.values() if track.HasField("process")]
    assert [process.pid for process in processes] == [7, 9, 9], "a number may be used again"
    assert (list(processes[0].cmdline), processes[0].start_timestamp_ns) == (
        ["sh", "-c"],
        1_250_000_000,
    )


def test_calls_are_instants_with_what_they_hold() -> None:
    tracks, events = trace()
    found = next(packet for packet in events if packet.track_event.name == "WRITE")
    thread = tracks[found.track_event.track_uuid].thread
    assert (found.timestamp, thread.pid, thread.tid) == (2_000_000_000, 7, 8)
    notes = {note.name: note for note in found.track_event.debug_annotations}
    assert notes["fd"].uint_value == 1
    assert notes["buf"].string_value == '=1+1,"x"\n'
    assert notes["fault"].bool_value is True
    sent = next(packet for packet in events if packet.track_event.name == "SENDTO").track_event
    assert sent.debug_annotations[0].uint_value == 2**64 - 1
    later = next(p for p in events if p.track_event.name == "OF_A_LATER_VERSION").track_event
    notes = {note.name: note for note in later.debug_annotations}
    assert (notes["new"].int_value, notes["list"].string_value) == (-3, "[1]")
    lost = next(packet for packet in events if packet.track_event.name == "LOST").track_event
    assert tracks[lost.track_uuid].name == "qmond"


def test_switches_are_slices_of_threads_that_are_known() -> None:
    tracks, events = trace()
    assert slices(tracks, events, cpu=True) == [(2.2, BEGIN, 0, "running"), (2.3, END, 0, "")]
    begin = next(packet for packet in events if packet.track_event.name == "running")
    above = tracks[tracks[begin.track_event.track_uuid].parent_uuid]
    assert above.thread.tid == 8
    assert 99 not in {track.thread.tid for track in tracks.values()}


def test_a_switch_tells_whose_its_threads_are() -> None:
    """Where the CPU was idle before or after, and where the line has both processes."""
    switch = {"event": "SCHED_SWITCH"}
    adopted = [{"ts": 1.0, "event": "TRACK_ADOPT", "pid": pid, "start": 1.0} for pid in (7, 9)]
    tracks, events = trace(
        [
            *adopted,
            {"ts": 2.0, **switch, "prev_pid": 0, "next_pid": 71, "pid": 7},
            {"ts": 3.0, **switch, "prev_pid": 71, "next_pid": 91, "pid": 7, "next_tgid": 9},
            {"ts": 4.0, **switch, "prev_pid": 91, "next_pid": 50, "pid": 9},
            {"ts": 5.0, **switch, "prev_pid": 50, "next_pid": 92, "pid": 9},
        ]
    )
    assert [time for time, *_ in slices(tracks, events, cpu=True)] == [2.0, 3.0, 3.0, 4.0]
    threads = {(track.thread.pid, track.thread.tid) for track in tracks.values()} - {(0, 0)}
    assert threads == {(7, 7), (9, 9), (7, 71), (9, 91)}


def test_statistics_and_bytes_are_counters() -> None:
    tracks, events = trace()
    counted = [
        (tracks[p.track_event.track_uuid].name, p.track_event.counter_value)
        for p in events
        if p.track_event.type == TrackEvent.TYPE_COUNTER
    ]
    assert counted == [
        ("bytes written", 9),
        ("allocations", 3),
        ("allocations, all", 5),
        ("bytes written", 1),
    ]
    counters = [track for track in tracks.values() if track.HasField("counter")]
    assert [track.counter.unit for track in counters if track.name == "bytes written"] == [3, 3]
    assert {tracks[t.parent_uuid].process.pid for t in counters if t.parent_uuid} == {7, 9}


def test_the_wall_clock_stands_beside_the_traces_own() -> None:
    first = Trace.FromString(next(packets(EVENTS))).packet[0].clock_snapshot
    clocks = {clock.clock_id: clock.timestamp for clock in first.clocks}
    assert (first.primary_trace_clock, clocks) == (3, {3: 10**9, 1: 1_795_420_801 * 10**9})


def test_another_boot_comes_after_the_first_one() -> None:
    again = {"ts": 0.5, "event": "START", "boot_id": "c", "time": "2026-11-23T08:01:01.000000Z"}
    read = {"ts": 0.75, "event": "READ", "pid": 7, "tid": 7, "fd": 0, "len": 1, **ARM}
    tracks, events = trace([*EVENTS, again, read])
    last = next(packet for packet in events if packet.track_event.name == "READ")
    assert last.timestamp / 1e9 == 61.25
    assert [t.process.pid for t in tracks.values() if t.HasField("process")] == [7, 9, 9, 7]


def test_memory_does_not_grow_with_those_who_have_gone() -> None:
    def forks() -> Any:
        for at in range(5000):
            fork = {"event": "TRACK_FORK", "parent": 7, "child": 1000 + at, "tid": 7, **ARM}
            yield {"ts": at + 0.1, **fork}
            yield {"ts": at + 0.2, "event": "EXIT", "pid": 1000 + at, "code": 0, "signal": None}

    from qmond.ctl.formats.tracks import _Tracks

    known = _Tracks()
    assert sum(1 for _ in known.all([*EVENTS, *forks()])) > 20_000
    assert len(known._processes) < 1100
    assert len(known._threads) < 10


def test_chromes_format_nests_and_names() -> None:
    found = json.loads(b"".join(chrome_trace(EVENTS)))["traceEvents"]
    rows: dict[tuple[int, int], list[str]] = {}
    for event in found:
        row = rows.setdefault((event["pid"], event.get("tid", 0)), [])
        if event["ph"] == "B":
            row.append(event["name"])
        elif event["ph"] == "E":
            row.pop()
    assert rows[9, 9] == ["again"]
    names = {e["args"]["name"] for e in found if e["name"] == "process_name"}
    assert names == {"sh -c", "fork of 7", "again"}
    write = next(event for event in found if event["name"] == "WRITE")
    assert (write["ts"], write["ph"], write["pid"], write["tid"]) == (2_000_000, "i", 7, 8)
    assert json.loads(b"".join(chrome_trace([])))["traceEvents"] == []


def test_a_table_in_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(b"".join(table(EVENTS)).decode(), newline="")))
    assert len(rows) == len(EVENTS)
    assert rows[2]["buf"] == '\'=1+1,"x"\n'
    assert (rows[2]["fd"], rows[2]["fault"]) == ("1", "true")
    assert rows[7]["event"] == "ALLOC_SUM"
    assert json.loads(rows[1]["argv"]) == ["sh", "-c"]
    assert rows[0]["pid"] == ""
    assert set(COLUMNS) >= KEYS - {"evt"}


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\r=1", "\n=1", "\uff1d1"])
def test_no_cell_is_a_formula(text: str) -> None:
    event = {"ts": 1.0, "event": "EXEC", "pid": -1, "filename": text}
    (row,) = csv.DictReader(io.StringIO(b"".join(table([event])).decode(), newline=""))
    assert (row["filename"], row["pid"]) == (f"'{text}", "-1")
    (row,) = csv.DictReader(
        io.StringIO(b"".join(table([event], guarded=False)).decode(), newline="")
    )
    assert row["filename"] == text
    assert b"\x1b" not in b"".join(table([event | {"filename": "\x1b[2J"}], shown=True))


# ---- files -----------------------------------------------------------------------------------


def lines_of(events: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(event).encode() + b"\n" for event in events]


def test_files_of_all_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(EVENTS)
    (tmp_path / "events-20261121T080000.000000Z.jsonl.gz").write_bytes(gzip.compress(lines[0]))
    pack = zstandard.ZstdCompressor().compress
    packed = pack(lines[1][:9]) + pack(lines[1][9:])  # a line across two frames
    (tmp_path / "events-20261122T080000.000000Z.jsonl.zst").write_bytes(packed)
    torn = lines[3][:20] + b"\n[]\n" + b"\xff\n" * 9
    (tmp_path / "events.jsonl").write_bytes(lines[2] + torn + lines[3] + lines[4][:-5])
    assert list(read([tmp_path])) == EVENTS[:4]
    said = capsys.readouterr().err
    assert f"{tmp_path}/events.jsonl:2: not JSON; left out" in said
    assert f"{tmp_path}/events.jsonl:3: not a JSON object; left out" in said
    assert "12 lines were left out in all" in said


def test_the_archive_of_a_record(tmp_path: Path) -> None:
    content = b"".join(lines_of(EVENTS))
    with tarfile.open(tmp_path / "run.tar.gz", "w:gz") as archive:
        for name, data in (("run/summary.json", b"{}"), ("run/events.jsonl", content)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert list(read([tmp_path / "run.tar.gz"])) == EVENTS


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"ts":1.0,"event":"READ","pid":"7"}\n', "'READ': `pid` is not of type int"),
        (b'{"ts":1.0,"event":"OF_LATER","pid":[]}\n', "'OF_LATER': `pid` is not of type int"),
        (b'{"ts":1.0,"evt":"ALLOC_SUM","meta":3}\n', "'ALLOC_SUM': `meta` is not of type dict"),
        (b'{"ts":-1,"event":"READ"}\n', "`ts` is not a time"),
        (b'{"ts":1e300,"event":"READ"}\n', "`ts` is not a time"),
        (b'{"ts":"1","event":"READ"}\n', "it has no `ts`"),
        (b'{"ts":1.0,"event":"READ","buf":"abc', "cut off before its end"),
        (b"\x00\n", "not JSON"),
    ],
)
def test_what_is_no_event_is_told_and_left_out(tmp_path: Path, line: bytes, why: str) -> None:
    said: list[str] = []
    file = tmp_path / "events.jsonl"
    file.write_bytes(lines_of(EVENTS)[0] + line)
    assert len(list(Reading(said.append).events([file]))) == 1
    assert said[0].startswith(f"{file}:2: ")
    assert why in said[0]


def test_what_is_of_a_later_version_is_told_once_and_kept(tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "events.jsonl"
    new = {"ts": 1.0, "event": "EXEC", "pid": 7, "filename": "x", "new\x1b": 1}
    file.write_bytes(b"".join(lines_of([*EVENTS, new, new])))
    reading = Reading(said.append)
    assert list(reading.events([file]))[-3:] == [EVENTS[-1], new, new]
    assert said == [
        f"{file}:13: the event 'OF_A_LATER_VERSION' is not known to this version",
        f"{file}:15: the key 'new\\x1b' of EXEC is not known to this version",
        (
            "lines with events or keys not known to this version: "
            "2 'EXEC.new\\x1b', 1 'OF_A_LATER_VERSION'"
        ),
    ]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.gz", gzip.compress(b"x" * 1000, mtime=0)[:20], "ended before"),
        ("a.gz", b"no gzip", "Not a gzipped file"),
        ("a.gz", gzip.compress(b"x" * 1000, mtime=0)[:14] + b"\xff" * 30, "a.gz: "),
        ("a.zst", b"no zstd at all", "Unknown frame descriptor"),
        ("a.zst", zstandard.compress(bytes(range(256)) * 9)[:-3], "cut off before its end"),
        ("a.tar.gz", gzip.compress(b"", mtime=0), "contains no events.jsonl|empty"),
        ("a.tar.gz", b"no tar", "a.tar.gz: "),
    ],
)
def test_what_cannot_be_unpacked_is_told(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(QmondError, match=why):
        list(read([tmp_path / name]))


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(QmondError, match=r"none: No such file"):
        list(read([tmp_path / "none"]))
    with pytest.raises(QmondError, match=r"contains no events\.jsonl"):
        list(read([tmp_path]))


def test_the_verb(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    file, out = tmp_path / "events.jsonl", tmp_path / "run.pftrace"
    file.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    assert main(["export", "--format", "perfetto", "-o", str(out), str(file)]) == 0
    assert len(Trace.FromString(out.read_bytes()).packet) > len(EVENTS)
    assert main(["export", "--format", "csv", str(file)]) == 0
    assert capsysbinary.readouterr().out.startswith(b"ts,time,seq,event,pid")
    assert main(["export", "--format", "chrome", str(file)]) == 0
    assert len(json.loads(capsysbinary.readouterr().out)["traceEvents"]) > len(EVENTS)
    assert main(["export", "--format", "csv", "-o", "/no/such/x", str(file)]) == 1
    with pytest.raises(SystemExit):
        main(["export", "--format", "chrome", "--exact", str(file)])


def export(out: Path, *files: Path) -> int:
    return main(["export", "--format", "csv", "-o", str(out), *map(str, files)])


@pytest.mark.parametrize("way", ["itself", "link", "folder", "rotated", "archive", "input"])
def test_an_input_is_not_the_output(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"".join(lines_of(EVENTS))
    log, old, link = (tmp_path / at for at in ("events.jsonl", name(21) + ".gz", "link"))
    archive = tmp_path / "run.tar.gz"
    log.write_bytes(content)
    old.write_bytes(gzip.compress(content))
    link.symlink_to(log)
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(log, "run/events.jsonl")
    out, file = {
        "itself": (log, log),
        "link": (link, log),
        "folder": (log, tmp_path),
        "rotated": (old, tmp_path),
        "archive": (archive, archive),
        "input": (log, Path("-")),
    }[way]
    before = out.read_bytes()
    with log.open() as stdin, pytest.raises(SystemExit) as ended:
        monkeypatch.setattr("sys.stdin", stdin)
        export(out, file)
    assert ended.value.code == 2
    assert "this file is an input" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize("is_stdin", [False, True])
def test_a_file_without_an_event_is_a_fault(
    *,
    is_stdin: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, foreign, empty, out = (tmp_path / at for at in ("events.jsonl", "text", "empty", "out"))
    log.write_bytes(row(1) + b"text\n")
    foreign.write_text("text\n" * 9)
    empty.touch()
    assert export(out, log, empty) == 0
    capsys.readouterr()
    told = Path("-") if is_stdin else foreign
    with foreign.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert export(out, told, log) == 1
        stdin.seek(0)
        assert main(["query", "SELECT 1", str(told)]) == 1
    said = capsys.readouterr().err
    assert said.count("9 lines were left out in all\n") == 2
    assert said.count(f"{told}: no line of it is an event\n") == 2
    assert b"READ" in out.read_bytes()


def test_a_folders_log_may_be_without_an_event(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'{"ts":1.0,"ev')
    (tmp_path / name(21)).write_bytes(row(1))
    assert export(tmp_path / "out", tmp_path) == 0


@pytest.mark.parametrize("fault", ["no input", "cut off", "ctrl-c"])
def test_an_export_that_fails_leaves_the_old_file(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, out = tmp_path / "events.gz", tmp_path / "out"
    out.write_text("old")
    if fault != "no input":
        packed = gzip.compress(b"".join(lines_of(EVENTS) * 1000))
        log.write_bytes(packed if fault == "ctrl-c" else packed[:-9])
    if fault == "ctrl-c":

        def interrupted(events: Iterator[Any], **_: Any) -> Iterator[bytes]:
            yield str(next(events)).encode()
            raise KeyboardInterrupt

        monkeypatch.setattr("qmond.ctl.formats.table.table", interrupted)
    before = set(tmp_path.iterdir())
    with contextlib.suppress(KeyboardInterrupt):
        assert export(out, log) in {1, 130}
    assert out.read_text() == "old"
    assert set(tmp_path.iterdir()) == before


def test_the_file_of_an_export_has_the_mode_of_the_old_one(tmp_path: Path) -> None:
    log, out, link = (tmp_path / at for at in ("events.jsonl", "out", "link"))
    log.write_bytes(row(1))
    link.symlink_to(out)
    umask = os.umask(0o027)
    try:
        assert export(link, log) == 0
        assert stat.S_IMODE(out.stat().st_mode) == 0o640
        out.chmod(0o606)
        os.chown(out, 1234 if os.geteuid() == 0 else -1, -1)
        before = out.stat()
        assert export(link, log) == 0
    finally:
        os.umask(umask)
    after = out.stat()
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    assert link.is_symlink()
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_no_regular_file_is_written_to(tmp_path: Path) -> None:
    log, fifo, out = (tmp_path / at for at in ("events.jsonl", "fifo", "out"))
    log.write_bytes(row(1))
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert export(fifo, log) == 0
    assert os.read(reader, 1 << 16).startswith(b"ts,time,")
    os.close(reader)
    assert fifo.is_fifo()
    command = "from qmond.ctl import main; import sys; sys.exit(main(sys.argv[1:]))"
    with out.open("wb") as stdout:
        told = ["export", "--format", "csv", "-o", "/dev/stdout", str(log)]
        subprocess.run([sys.executable, "-c", command, *told], stdout=stdout, check=True)
        assert os.path.samestat(out.stat(), os.fstat(stdout.fileno()))
    assert out.read_bytes().startswith(b"ts,time,")


@pytest.mark.parametrize("form", ["chrome", "csv"])
def test_what_is_piped_to_a_terminal_does_not_drive_it(form: str, tmp_path: Path) -> None:
    active = "\x07\x1b[2J\x7f\x9b2J\u202e\u2066\u2028"
    log, out = tmp_path / "events.jsonl", tmp_path / "out"
    event = {"ts": 1.0, "event": "EXEC", "pid": 1, "filename": active, "guest": active, "seq": 1}
    log.write_text(json.dumps(event) + "\n")
    assert main(["export", "--format", form, "-o", str(out), str(log)]) == 0
    assert "filename" in (told := out.read_text())
    assert not set(active) - set("[2J") & set(told)


def test_a_file_that_is_compressed_meanwhile_is_read_all_the_same(tmp_path: Path) -> None:
    rows = [json.dumps({"ts": at, "event": "READ", "pid": 7, "fd": 0}) + "\n" for at in (1, 2)]
    old, newer = (tmp_path / f"events-2026112{at}T080000.000000Z.jsonl" for at in (1, 2))
    old.write_text(rows[0])
    newer.write_text(rows[1])
    events = Reading(print).events([tmp_path])
    assert next(events)["ts"] == 1
    newer.with_name(newer.name + ".gz").write_bytes(gzip.compress(newer.read_bytes(), mtime=0))
    newer.unlink()
    assert [event["ts"] for event in events] == [2]


def row(at: int) -> bytes:
    return b'{"ts":%d,"event":"READ","pid":7,"fd":0}\n' % at


def name(day: int) -> str:
    return f"events-202611{day}T080000.000000Z.jsonl"


def seen(events: Iterator[dict[str, Any]]) -> list[int]:
    return [event["ts"] for event in events]


def test_what_is_not_yet_compressed_to_its_end_is_not_read(tmp_path: Path) -> None:
    """Whether it is being written, or a crash has left it, or its plain file is gone."""
    (tmp_path / f"{name(19)}.zst.part").write_bytes(zstandard.compress(row(0))[:-2])
    (tmp_path / f"{name(20)}.gz").write_bytes(gzip.compress(row(1)))
    (tmp_path / f"{name(20)}.zst.part").write_bytes(zstandard.compress(row(1)))
    (tmp_path / name(21)).write_bytes(row(2))
    (tmp_path / f"{name(21)}.zst.part").write_bytes(zstandard.compress(row(2)))
    (tmp_path / name(22)).write_bytes(row(3))
    (tmp_path / f"{name(22)}.zst").write_bytes(zstandard.compress(row(3)))
    (tmp_path / "events.jsonl").write_bytes(row(4))
    (tmp_path / "events.jsonl.zst.part").write_bytes(zstandard.compress(row(4)))
    (tmp_path / "events.new").write_bytes(b"")
    (tmp_path / "events-20261123T080000.000000Z.torn").write_bytes(b"x")
    assert seen(Reading(pytest.fail).events([tmp_path])) == [1, 2, 3, 4]


@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("moment", ["listed", "opened", "begun"])
def test_each_line_is_read_once_however_the_log_is_rotated_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, moment: str
) -> None:
    """Steps: rotated; compressed; the plain file removed."""
    live, rotated = tmp_path / "events.jsonl", tmp_path / name(22)
    (tmp_path / name(21)).write_bytes(row(1))
    live.write_bytes(row(2))

    def rotate() -> None:
        if steps > 0 and not rotated.exists() and live.read_bytes() == row(2):
            live.rename(rotated)
            live.write_bytes(row(3))
        if steps > 1:
            rotated.with_name(rotated.name + ".zst").write_bytes(zstandard.compress(row(2)))
        if steps > 2:
            rotated.unlink(missing_ok=True)

    def listed(folder: Path) -> list[Path]:
        if moment == "opened":
            rotate()
        found = rotated_files(folder)
        if moment == "listed":
            rotate()
        return found

    monkeypatch.setattr("qmond.ctl.formats.lines.rotated_files", listed)
    events = Reading(pytest.fail).events([tmp_path])
    first = [next(events)["ts"]]
    if moment == "begun":
        rotate()
    found = first + seen(events)
    assert found in ([1, 2], [1, 2, 3])


def test_a_file_that_is_removed_meanwhile_is_told(tmp_path: Path) -> None:
    for day in (20, 21, 22):
        (tmp_path / name(day)).write_bytes(row(day))
    said: list[str] = []
    events = Reading(said.append).events([tmp_path])
    assert next(events)["ts"] == 20
    (tmp_path / name(21)).unlink()
    assert seen(events) == [22]
    assert said == [f"{tmp_path / name(21)}: removed meanwhile; left out"]


def test_a_log_that_grows_as_fast_as_it_is_read_comes_to_an_end(tmp_path: Path) -> None:
    live = tmp_path / "events.jsonl"
    live.write_bytes(row(1) * 10)
    found = 0
    with live.open("ab", 0) as growing:
        for _ in Reading(pytest.fail).events([live]):
            growing.write(row(2) * 1000)
            found += 1
            assert found < 100
    assert found == 10
