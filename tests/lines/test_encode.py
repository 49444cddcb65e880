"""Records to lines: content above all, which guests choose."""

import base64
import json
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import Reference, address, content

from qmond.bpf.ring import RingBuffer
from qmond.clock import Anchor
from qmond.events.calls import NAMES as CALL_NAMES
from qmond.events.fields import Event
from qmond.events.fields import given as from_the_daemon
from qmond.events.records import (
    IMAGE,
    IMAGE_FORMAT,
    PARENT_FORMAT,
    PARENTS_MAX,
    RECORD_FORMAT,
    Flag,
)
from qmond.events.table import BY_NAME, EVENTS, NUMBER, PUBLIC
from qmond.lines import compiler
from qmond.lines.encoder import Encoder, ending
from qmond.processes.table import Answer, Process, ProcessTable

ANCHOR = Anchor(1_700_000_000_000_000_000)


def table(changed: Callable[[int], None] = lambda _pid: None) -> ProcessTable:
    return ProcessTable(lambda _pid, _uid, answer: answer(None), lambda _: "counted", changed)


class Ring:
    """A ring as the kernel fills it, of which the encoder sees `window` bytes at a time."""

    def __init__(self, *records: bytes, window: int = 1 << 16, at: int = 0) -> None:
        self._memory = memoryview(bytearray(1 << 20))
        self._at, self._window = at, window
        self.consumed = memoryview(bytearray(8)).cast("Q")
        self.produced = memoryview(bytearray(8)).cast("Q")
        self.consumed[0] = self.produced[0] = at
        self.origin = 0
        self.slide()
        for raw in records:
            self.put(raw)

    def slide(self) -> bool:
        before, self.origin = self.origin, self.consumed[0]
        self.data = self._memory[self.origin - self._at :][: self._window]
        return self.origin != before

    def put(self, raw: bytes, header: int | None = None) -> None:
        word = len(raw) if header is None else header
        whole, start = struct.pack("=II", word, 0) + raw, self.produced[0] - self._at
        self._memory[start : start + len(whole)] = whole
        self.produced[0] += len(whole) + 7 & ~7


def drained(encoder: Encoder, ring: Ring, processes: ProcessTable) -> list[bytes]:
    """Return the lines of as many batches as it takes."""
    found = b""
    encoder.follow(ANCHOR)
    while ring.consumed[0] != ring.produced[0]:
        encoder.begin()
        assert encoder.drain(cast("RingBuffer", ring), processes)
        found += bytes(encoder.data)
        assert sum(encoder.by_event().values()) == len(encoder)
        assert sum(encoder.by_process().values()) == len(encoder)
    return found.splitlines(keepends=True)


def record(
    name: str, data: bytes = b"", *, a: int = 0, b: int = 0, flags: int = Flag.COUNTED
) -> bytes:
    return RECORD_FORMAT.pack(1_234_567_891, 42, 43, NUMBER[name], 0, flags, a, b) + data


def image(
    name: str,
    bin_: bytes,
    path: bytes,
    *argv: bytes,
    cwd: bytes = b"?",
    flags: int = Flag.COUNTED,
) -> bytes:
    head = IMAGE_FORMAT.pack(1_000, 42, 42, NUMBER[name], 0, flags, 1, 1000, 5_019_999_999)
    parents = [PARENT_FORMAT.pack(1, b"init")] + [bytes(PARENT_FORMAT.size)] * (PARENTS_MAX - 1)
    return head + b"".join(parents) + b"\0".join([bin_, path, b"user.slice/", cwd, *argv, b""])


def lines(*records: bytes, fields: str = "full", window: int = 1 << 16) -> list[dict[str, Any]]:
    """Return the lines of records, which are the reference's to the byte."""
    encoder = Encoder(fields=fields)
    found = drained(encoder, Ring(*records, window=window), table(encoder.forget))
    expected = Reference(fields=fields).encode(records, table(), 1, ANCHOR)
    assert found == [line for line, _, _, _ in expected]
    assert all(line.endswith(b"}\n") for line in found)
    return [json.loads(line) for line in found]


def test_a_line_has_the_original_keys_then_ours() -> None:
    (line,) = lines(record("READ", b"pwd\n", a=0, b=4))
    assert line == {
        "ts": 1.234567,
        "event": "READ",
        "pid": 42,
        "fd": 0,
        "buf": "pwd\n",
        "len": 4,
        "time": "2023-11-14T22:13:21.234567Z",
        "seq": 1,
        "tid": 43,
    }
    assert list(line)[:5] == ["ts", "event", "pid", "fd", "buf"]
    (line,) = lines(record("READ", b"pwd\n", a=0, b=4), fields="original")
    assert list(line) == ["ts", "event", "pid", "fd", "buf"]


def test_a_process_is_named_from_its_exec_on_and_its_child_from_the_fork_on() -> None:
    opened = record("TRACK_OPENAT", b"/etc/passwd")
    found = lines(
        image(
            "TRACK_ADOPT",
            b"qemu-arm-static",
            b"./prog",
            b"x",
            b"./prog",
            b"-v",
            flags=Flag.COUNTED | Flag.INTERPRETED,
        ),
        opened,
        image("IMAGE", b"sh", b"/bin/sh", b"sh", flags=0),
        opened,
    )
    adopted, before, after = found
    assert adopted["argv"] == ["x", "./prog", "-v"]
    assert (adopted["guest"], adopted["arch"], adopted["uid"]) == ("./prog", "arm", 1000)
    assert adopted["start"] == 5.01
    assert (before["bin"], before["arch"], before["guest"]) == ("qemu-arm-static", "arm", "./prog")
    assert (after["bin"], after.get("arch"), after["guest"]) == ("sh", None, "/bin/sh")
    assert [line["seq"] for line in found] == [1, 2, 3]


def test_a_child_is_what_its_parent_is_and_is_forgotten_at_its_end() -> None:
    encoder = Encoder()
    processes = table(encoder.forget)
    ring = Ring(
        image("TRACK_ADOPT", b"qemu-arm", b"qemu-arm", b"qemu-arm", b"prog"),
        record("TRACK_FORK", a=44),
        RECORD_FORMAT.pack(1, 44, 44, NUMBER["EXIT"], 0, Flag.COUNTED, 0x0300, 0),
    )
    found = drained(encoder, ring, processes)
    last = json.loads(found[-1])
    assert (last["event"], last["code"], last["guest"]) == ("EXIT", 3, "prog")
    assert [process.pid for process in processes] == [42]
    # a fork is its parent's and its child's
    for pids, count in ({42}, 2), ({44}, 2), ({42, 44}, 3), ({7}, 0):
        chosen, number = encoder.select(~0 & (1 << 64) - 1, frozenset(pids))
        assert (number, chosen.count(b"\n")) == (count, count)
    only = encoder.select(1 << NUMBER["TRACK_FORK"])
    assert only == (found[1], 1)
    assert encoder.by_process() == {42: 2, 44: 1}
    assert encoder.by_event() == {"TRACK_ADOPT": 1, "TRACK_FORK": 1, "EXIT": 1}


def test_what_nobody_wants_moves_the_process_table_and_makes_no_line() -> None:
    processes = table()
    ring = Ring(record("TRACK_FORK", a=44, flags=0), record("SENDTO", flags=0))
    assert drained(Encoder(), ring, processes) == []
    assert {process.pid for process in processes} == {44}


def test_more_than_a_batch_holds_comes_in_several_and_in_order() -> None:
    encoder = Encoder()
    raw = record("READ", b"\x01" * 16384, b=16384)
    path = image("TRACK_ADOPT", b"qemu-arm", b"p" * 4000, b"x" * 4000)
    ring = Ring(*[raw, path] * 40)
    found = drained(encoder, ring, table(encoder.forget))
    assert [json.loads(line)["seq"] for line in found] == list(range(1, 81))


@pytest.mark.parametrize("more", range(0, 88, 8))
def test_the_window_may_end_anywhere_behind_a_record(more: int) -> None:
    raw = record("WRITE", b"what is beyond!!", b=16)
    found = lines(raw, raw, raw, window=8 + len(raw) + more)
    assert [line["buf"] for line in found] == ["what is beyond!!"] * 3


@pytest.mark.parametrize("at", [1 << 20, (1 << 64) - (1 << 21)])
def test_a_position_has_64_bits(at: int) -> None:
    assert len(drained(Encoder(), Ring(*[record("SENDTO")] * 3, at=at), table())) == 3


def test_stops_at_a_record_that_is_not_written_yet_and_passes_one_that_never_will_be() -> None:
    ring = Ring()
    ring.put(record("SENDTO", a=1), header=len(record("SENDTO")) | 1 << 30)
    ring.put(record("SENDTO", a=2))
    ring.put(record("SENDTO", a=3), header=len(record("SENDTO")) | 1 << 31)
    encoder = Encoder()
    assert encoder.drain(cast("RingBuffer", ring), table())
    assert json.loads(bytes(encoder.data))["len"] == 2
    assert not encoder.drain(cast("RingBuffer", ring), table())


def test_what_is_no_record_is_passed_or_left() -> None:
    encoder = Encoder()
    short, foreign = b"x" * 39, RECORD_FORMAT.pack(0, 0, 0, 999, 0, 0xFFFFFFFF, 0, 0)
    ring = Ring(short, foreign, record("SENDTO"))
    assert len(drained(encoder, ring, table())) == 1
    ring = Ring()
    ring.put(b"", header=1 << 20)  # longer than the ring
    encoder.begin()
    assert not encoder.drain(cast("RingBuffer", ring), table())
    ring = Ring(record("SENDTO"), window=40)  # less than the record, wherever it begins
    assert not encoder.drain(cast("RingBuffer", ring), table())


@pytest.mark.parametrize(
    ("data", "truncated", "buf", "exact"),
    [
        (b"plain", False, "plain", None),
        (b'q"\\\n\t\0\x1b', False, 'q"\\\n\t\0\x1b', None),
        ("h\u00e9".encode(), False, "h\u00e9", None),
        (b"\xff\xfe", False, "\ufffd\ufffd", b"\xff\xfe"),
        (b"a\xe2\x82", True, "a", None),  # a character that the capture cut
        (b"a\xe2\x82", False, "a\ufffd\ufffd", b"a\xe2\x82"),  # one that the guest did not finish
        (b"\xff\xe2\x82", True, "\ufffd\ufffd\ufffd", b"\xff\xe2\x82"),
        (b"\xe2\x82\xac", True, "\u20ac", None),
        (b"a\xf0\x9f\x98", True, "a", None),
        (b"\xed\xa0\x80", False, "\ufffd\ufffd\ufffd", b"\xed\xa0\x80"),  # a surrogate is no UTF-8
    ],
)
def test_content(data: bytes, truncated: bool, buf: str, exact: bytes | None) -> None:  # noqa: FBT001
    text, encoded = content(data, truncated=truncated)
    assert json.loads(text) == buf
    assert (base64.b64decode(encoded) if encoded is not None else None) == exact


@given(st.binary(), st.booleans())
def test_content_is_never_lost(data: bytes, truncated: bool) -> None:  # noqa: FBT001
    text, exact = content(data, truncated=truncated)
    if exact is not None:
        assert base64.b64decode(exact) == data
    else:
        kept = json.loads(text).encode()
        assert data.startswith(kept)
        assert len(data) - len(kept) <= (3 if truncated else 0)


@given(
    st.sampled_from([event for event in PUBLIC if event.fields and not event.statistic]),
    st.binary(max_size=300),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 7),
)
def test_any_record_makes_valid_json(event: Any, data: bytes, a: int, b: int, flags: int) -> None:
    if event.name == "TRACK_ADOPT":
        raw = image("TRACK_ADOPT", data.replace(b"\0", b""), b"p", data)
    else:
        raw = record(event.name, data, a=a, b=b, flags=flags | Flag.COUNTED)
    (line,) = lines(raw, fields="full" if a % 2 else "original")
    assert line["event"] == event.name


@given(
    st.lists(
        st.tuples(
            st.sampled_from([event.name for event in EVENTS if event.source.startswith("s")]),
            st.binary(max_size=100) | st.text(max_size=50).map(str.encode),
            st.integers(0, 2**64 - 1),
            st.integers(0, 2**63),
            st.integers(0, 7),
            st.integers(0, len(CALL_NAMES) - 1),
            st.integers(0, 2**60),
            st.sampled_from([1, 42, 43, 2**32 - 1]),
        ),
        max_size=20,
    )
)
def test_any_batch_is_the_references_to_the_byte(rows: list[Any]) -> None:
    lines(
        *(
            image(name, data.replace(b"\0", b"")[:20], b"p", data, flags=flags)
            if name in ("TRACK_ADOPT", "IMAGE")
            else RECORD_FORMAT.pack(ts, pid, 43, NUMBER[name], call, flags, a, b) + data
            for name, data, a, b, flags, call, ts, pid in rows
        )
    )


@pytest.mark.parametrize("moment", [0, 951_782_399, 951_782_400, 1_709_164_800, 4_107_542_399])
def test_wall_time_is_pythons(moment: int) -> None:
    encoder = Encoder()
    encoder.follow(Anchor(moment * 10**9 - 1_234_567_891))
    encoder.drain(cast("RingBuffer", Ring(record("SENDTO"))), table())
    expected = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    assert json.loads(bytes(encoder.data))["time"] == expected


def test_many_processes_come_and_go() -> None:
    """The names of a thousand processes, each entered, changed and forgotten in between."""
    encoder = Encoder()
    known: dict[int, Process] = {}
    processes = ProcessTable(
        lambda pid, _uid, answer: answer(known.get(pid)), lambda _: "", encoder.forget
    )
    for step in range(5000):
        pid = step * 7919 % 1000 * 64 + 1
        if step % 3:
            known[pid] = Process(pid, guest=b"%d" % step).rendered()
            processes.adopt(known[pid])
        elif pid in known:
            del known[pid]
            processes.forget(pid)
        ring = Ring(RECORD_FORMAT.pack(1, pid, 1, NUMBER["SENDTO"], 0, 4, 0, 0))
        (line,) = drained(encoder, ring, processes)
        expected = known[pid].guest if pid in known else None
        assert json.loads(line).get("guest") == (expected.decode() if expected else None)
        processes.take_news()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            struct.pack("=H", socket.AF_INET) + b"\x00\x50\xc0\x00\x02\x07" + bytes(8),
            "192.0.2.7:80",
        ),
        (
            struct.pack("=H", socket.AF_INET6)
            + b"\x01\xbb"
            + bytes(4)
            + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
            + bytes(4),
            "[2001:db8::1]:443",
        ),
        (struct.pack("=H", socket.AF_UNIX) + b"/run/x.sock\0junk", "unix:/run/x.sock"),
        (struct.pack("=H", socket.AF_UNIX) + b"\0abstract", "unix:@abstract"),
        (struct.pack("=H", socket.AF_UNIX), "unix:"),
        (struct.pack("=H", 16) + bytes(10), "family:16"),
        (struct.pack("=H", socket.AF_INET) + b"\x00", "family:2"),
        (struct.pack("=H", socket.AF_INET6) + bytes(22), "[::]:0"),
        (struct.pack("=H", socket.AF_UNIX) + b"/" * 126, "unix:" + "/" * 126),
        (struct.pack("=H", socket.AF_UNIX) + b"/" * 127, "unix:" + "/" * 126),
        (b"", "family:none"),
    ],
)
def test_addresses(data: bytes, text: str) -> None:
    assert address(data) == text.encode()
    (line,) = lines(record("CONNECT", data))
    assert line["addr"] == text


@given(
    st.sampled_from([socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, 0xFFFF]),
    st.binary(max_size=6),
    st.binary(max_size=140)
    | st.lists(st.sampled_from([b"\0\0", b"\0\1", b"\xff\xff"]), min_size=8).map(b"".join),
    st.integers(0, 7),
)
def test_any_address_is_the_references_to_the_byte(
    family: int, head: bytes, data: bytes, flags: int
) -> None:
    sockaddr = struct.pack("=H", family) + head + data
    lines(record("CONNECT", sockaddr, flags=flags | Flag.COUNTED))


def test_what_lies_behind_a_sockets_path_is_none_of_it() -> None:
    """A program gives the kernel the whole struct, and has often written no more than the path."""
    (line,) = lines(record("CONNECT", struct.pack("=H", socket.AF_UNIX) + b"/run/x\0\xff\xfe"))
    assert (line["addr"], line.get("addr_b64")) == ("unix:/run/x", None)


def test_a_sockets_path_that_ends_within_a_character_has_its_bytes() -> None:
    cut = struct.pack("=H", socket.AF_UNIX) + b"/x\xe2\x82"
    (line,) = lines(record("CONNECT", cut, flags=Flag.COUNTED | Flag.TRUNCATED | Flag.FAULT))
    assert line["addr"] == "unix:/x\ufffd\ufffd"
    assert base64.b64decode(line["addr_b64"]) == b"unix:/x\xe2\x82"


@pytest.mark.parametrize(
    ("name", "a", "b", "expected"),
    [
        ("SOCKET", 2, 1 | 0o2000000, {"domain": 2, "type": 0o2000001}),
        ("DUP2", 0xFFFF_FFFF, 3, {"oldfd": -1, "newfd": 3}),
        ("SETUID", 0xFFFF_FFFF_FFFF_FFFF, 0, {"uid": -1}),
        ("MPROTECT", 5, 0, {"read": 1, "write": 0, "exec": 1}),
        ("MADVICE", 4, 0, {"advice": "MADV_DONTNEED"}),
        ("MADVICE", 77, 0, {"advice": "MADV_OTHER"}),
        ("SENDTO", 2**63, 0, {"len": 2**63}),
        ("SIGNAL_GENERATE", 11, 0, {"sig": 11}),
    ],
)
def test_integers_have_their_c_types_width_and_sign(
    name: str, a: int, b: int, expected: dict[str, object]
) -> None:
    (line,) = lines(record(name, a=a, b=b))
    assert {key: line[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("pid", "other", "more"),
    [(42, 42, {"pid": 42}), (42, 43, {"pid": 42, "next_tgid": 43})],
)
def test_a_switch_names_its_processes(pid: int, other: int, more: dict[str, int]) -> None:
    raw = RECORD_FORMAT.pack(1, pid, other, NUMBER["SCHED_SWITCH"], 0, Flag.COUNTED, 7, 8)
    (line,) = lines(raw)
    names = ("ts", "event", "prev_pid", "next_pid", "time", "seq")
    assert {key: line[key] for key in line if key not in names} == more
    assert list(line)[2:5] == ["prev_pid", "next_pid", "pid"]
    (line,) = lines(raw, fields="original")
    assert list(line) == ["ts", "event", "prev_pid", "next_pid"]


def test_how_a_process_ended() -> None:
    assert ending(0x0700) == {"code": 7, "signal": None}
    assert ending(9) == {"code": None, "signal": 9}
    assert ending(0x80 | 11) == {"code": None, "signal": 11}  # with a core dump


def test_relative_timestamps_count_from_the_start() -> None:
    encoder = Encoder(epoch_ns=1_234_000_000)
    (line,) = drained(encoder, Ring(record("SENDTO", a=1)), table())
    assert json.loads(line)["ts"] == 0.000567
    assert line.startswith(b'{"ts":0.000567,')


def test_statistics_carry_their_type_as_evt() -> None:
    encoder = Encoder(fields="original")
    encoder.tell("FREE_SUM", 7_000_000_000, {"meta": {"count": 3}})
    line = b'{"ts":7.000000,"pid":-1,"evt":"FREE_SUM","meta":{"count":3}}\n'
    assert bytes(encoder.data) == line
    assert encoder.seq == 2


@pytest.mark.parametrize("event", [e for e in EVENTS if e.is_recorded], ids=lambda e: e.name)
def test_every_event_of_a_record_becomes_a_line_or_moves_the_process_table(event: Event) -> None:
    encoder = Encoder()
    raw = image(event.name, b"x", b"y") if event.layout is IMAGE else record(event.name)
    found = drained(encoder, Ring(raw), table(encoder.forget))
    assert encoder.take_failed() == {}
    assert len(found) == (0 if event.name == "OVER_BUDGET" else 1)


def test_what_no_record_can_bring_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    setuid = BY_NAME["SETUID"]
    wrong = replace(
        setuid, fields=(*setuid.fields, from_the_daemon("name", "string", "whose it is"))
    )
    monkeypatch.setattr(compiler, "EVENTS", (wrong,))
    with pytest.raises(ValueError, match="SETUID: no record brings name"):
        compiler.Compiler(full=True)


def test_what_only_python_could_tell_and_does_not_is_a_lost_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setuid = BY_NAME["SETUID"]
    fields = (*setuid.fields, from_the_daemon("name", "string", "whose it is"))
    told = replace(setuid, state=True, fields=fields)
    changed = tuple(told if event is setuid else event for event in EVENTS)
    monkeypatch.setattr(compiler, "EVENTS", changed)
    encoder = Encoder()
    assert drained(encoder, Ring(record("SETUID")), table()) == []
    assert encoder.take_failed() == {"SETUID": 1}


def test_a_process_is_looked_up_where_its_record_was_lost() -> None:
    known = Process(42, bin="qemu-arm", guest=b"/found", arch="arm").rendered()
    asked: list[Answer] = []
    encoder = Encoder()
    processes = ProcessTable(
        lambda _pid, _uid, answer: asked.append(answer), lambda _: "static", encoder.forget
    )
    (line,) = drained(encoder, Ring(record("SENDTO", a=1)), processes)
    assert "guest" not in json.loads(line), "no event waits for the answer"
    asked[0](known)
    encoder.begin()
    (line,) = drained(encoder, Ring(record("SENDTO", a=1)), processes)
    assert json.loads(line)["guest"] == "/found"


# ---- what guests choose, through every exit ------------------------------------------------------

HOSTILE = [
    *(bytes([byte]) for byte in range(256) if byte),
    b"\xe2\x82", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xf0\x9f\x98",  # no UTF-8
    b"\x1b[2J", "\x9b2J".encode(), "\u202e\u2066\u061c\u200f\u2028".encode(), b"\x7f",
    b'","event":"FORGED","x":"', b"\r\n{}", "\U0001f600 \u4f60\u597d".encode(),
]  # fmt: skip
ACTIVE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def exact(line: dict[str, Any], key: str) -> object:
    """Return a text's bytes, by whichever key has them exactly."""
    if f"{key}_b64" not in line:
        return line[key].encode() if isinstance(line[key], str) else [w.encode() for w in line[key]]
    told = line[f"{key}_b64"]
    return base64.b64decode(told) if isinstance(told, str) else [*map(base64.b64decode, told)]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_bytes_until_it_is_shown(text: bytes) -> None:
    unix, by_binfmt = struct.pack("=H", socket.AF_UNIX), Flag.COUNTED | Flag.INTERPRETED
    records = (
        image("TRACK_ADOPT", b"qemu-arm", text, b"x", text, flags=by_binfmt),
        record("TRACK_OPENAT", text),
        record("EXEC", text),
        record("WRITE", text, b=len(text)),
        record("CONNECT", unix + text),
        record("CONNECT", unix + b"\0" + text),
    )
    encoder = Encoder()
    found = drained(encoder, Ring(*records), table(encoder.forget))
    assert len(found) == len(records)
    for line in found:
        assert ACTIVE.findall(line.decode()) == []
        assert line.count(b"\n") == 1
    adopted, opened, became, wrote, named, abstract = map(json.loads, found)
    assert exact(adopted, "argv") == [b"x", text]
    assert (opened["event"], exact(opened, "file")) == ("TRACK_OPENAT", text)
    assert exact(became, "filename") == exact(wrote, "buf") == text
    assert exact(wrote, "guest") == text
    assert (exact(named, "addr"), exact(abstract, "addr")) == (b"unix:" + text, b"unix:@" + text)


def test_a_path_that_was_cut_says_so() -> None:
    (line,) = lines(record("TRACK_OPENAT", b"/a\xe2\x82", flags=Flag.COUNTED | Flag.TRUNCATED))
    assert (line["file"], line["truncated"], "file_b64" in line) == ("/a", True, False)


def test_one_records_trouble_is_one_line_less(caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder()
    processes = table(encoder.forget)

    def fail(_record: bytes) -> Process:
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "what no one thought of")

    processes.image = fail  # type: ignore[assignment, method-assign]
    adopted = image("TRACK_ADOPT", b"qemu-arm", b"p", b"x")
    ring = Ring(*[record("SENDTO"), adopted] * 50)
    assert len(drained(encoder, ring, processes)) == 50
    assert encoder.take_failed() == {"TRACK_ADOPT": 50}
    assert encoder.take_failed() == {}
    assert len(caplog.records) == 1


def test_a_line_of_the_daemons_own_that_fits_nowhere_is_counted() -> None:
    encoder = Encoder()
    encoder.tell("START", 1, {"message": "x" * (1 << 21)})
    encoder.tell("START", 1, {"message": "x"})
    assert len(encoder) == 1
    assert encoder.take_failed() == {"START": 1}


def test_lines_of_thousands_of_processes_are_counted_by_process() -> None:
    encoder = Encoder()
    processes = table(encoder.forget)
    pids = [pid * 7919 % 4_000_000 + 1 for pid in range(5000)]
    ring = Ring(*(RECORD_FORMAT.pack(1, pid, 1, NUMBER["DUP2"], 0, 4, 0, 0) for pid in pids * 2))
    encoder.begin()
    assert encoder.drain(cast("RingBuffer", ring), processes)
    assert len(encoder.by_process()) == min(len(encoder), 5000)
    assert sum(encoder.by_process().values()) == len(encoder)


def test_the_names_of_processes_take_no_more_than_so_much_memory() -> None:
    """They are asked for again, and right, however many there are."""
    long = b"x" * 4000
    known = {pid: Process(pid, guest=b"%d-%b" % (pid, long)).rendered() for pid in range(1, 3000)}
    encoder = Encoder()
    processes = table(encoder.forget)
    for process in known.values():
        processes.adopt(process)
    for _ in range(2):
        ring = Ring(*(RECORD_FORMAT.pack(1, pid, 1, NUMBER["DUP2"], 0, 4, 0, 0) for pid in known))
        for pid, line in zip(known, drained(encoder, ring, processes), strict=True):
            assert json.loads(line)["guest"].startswith(f"{pid}-")
