"""How a line is made, in plain Python: what encoder.c must do, to the byte."""

from __future__ import annotations

import base64
import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from struct import unpack_from
from typing import Any, Final

from qmond.clock import TICK_NS, Anchor
from qmond.escape import json_bytes
from qmond.events import calls
from qmond.events.fields import Event, Field, Form
from qmond.events.records import ADDRESS_MAX, RECORD_FORMAT, Flag
from qmond.events.table import BY_NAME, EVENTS, NUMBER
from qmond.events.words import ADVICE, OTHER_ADVICE
from qmond.lines.encoder import adoption, ending
from qmond.processes.table import Process, ProcessTable, json_text, words_of

__all__ = ["Line", "Reference", "address", "content"]

Line = tuple[bytes, int, int, int]
"""A line with its newline, its event's number, its process, and the other process or the same."""

_ADOPT: Final = NUMBER["TRACK_ADOPT"]
_IMAGE: Final = NUMBER["IMAGE"]
_FORK: Final = NUMBER["TRACK_FORK"]
_EXIT: Final = NUMBER["EXIT"]
_OVER_BUDGET: Final = NUMBER["OVER_BUDGET"]

_SIZES: Final = {"u16": 16, "u32": 32, "s32": 32, "u64": 64}


@dataclass(frozen=True, slots=True)
class Record:
    """A record's fields, as the makers of the JSON values need them."""

    pid: int
    tid: int
    call: int
    flags: int
    a: int
    b: int
    data: bytes
    process: Process


# ---- values ----------------------------------------------------------------------------------


def content(data: bytes, *, truncated: bool) -> tuple[bytes, bytes | None]:
    """Return captured bytes as a JSON string, and where that is not exact, in base64 too.

    A character that the end of a capture cut in two is left out, and makes nothing inexact.
    """
    try:
        return json_bytes(data.decode()), None
    except UnicodeDecodeError as error:
        if truncated and error.reason == "unexpected end of data":
            return json_bytes(data[: error.start].decode()), None
    return json_text(data), base64.b64encode(data)


def address(data: bytes) -> bytes:
    """Return a struct sockaddr as text: `192.0.2.7:80`, `unix:/run/x.sock`, `family:16`."""
    data = data[:ADDRESS_MAX]
    if len(data) < 2:
        return b"family:none"
    (family,) = unpack_from("=H", data)
    port = int.from_bytes(data[2:4])
    if family == socket.AF_INET and len(data) >= 8:
        return f"{ipaddress.IPv4Address(data[4:8])}:{port}".encode()
    if family == socket.AF_INET6 and len(data) >= 24:
        return f"[{_ipv6(data[8:24])}]:{port}".encode()
    if family == socket.AF_UNIX:
        path = data[2:]
        return b"unix:" + (b"@" + path[1:] if path[:1] == b"\0" else path.partition(b"\0")[0])
    return b"family:%d" % family


def _ipv6(data: bytes) -> str:
    host = ipaddress.IPv6Address(data)
    if host.ipv4_mapped is not None:  # from Python 3.13 on in dotted form
        return f"::ffff:{int.from_bytes(data[12:14]):x}:{int.from_bytes(data[14:]):x}"
    return str(host)


# ---- makers: one a field, `,"key":value` or nothing ---------------------------------------------

_Maker = Callable[[Record], bytes]


def _integer(field: Field) -> Callable[[Record], int]:
    """Return what takes a field's value out of its slot, in its C type's width and sign."""
    slot, bits = field.slot, _SIZES[field.ctype]
    mask, sign = (1 << bits) - 1, 1 << bits - 1 if field.ctype.startswith("s") else 0

    def value(record: Record) -> int:
        raw: int = getattr(record, slot)
        return ((raw & mask) ^ sign) - sign

    return value


def _make_integer(field: Field, key: bytes) -> _Maker:
    value = _integer(field)
    return lambda record: b"%b%d" % (key, value(record))


def _make_other(field: Field, key: bytes) -> _Maker:
    value = _integer(field)
    return lambda record: b"%b%d" % (key, value(record)) if value(record) != record.pid else b""


def _make_ticks(field: Field, key: bytes) -> _Maker:
    value = _integer(field)

    def make(record: Record) -> bytes:
        return b"%b%d.%02d" % (key, *divmod(value(record) // TICK_NS, 100))

    return make


def _make_bit(field: Field, key: bytes) -> _Maker:
    value, bit = _integer(field), field.bit
    return lambda record: b"%b%d" % (key, value(record) >> bit & 1)


def _make_advice(field: Field, key: bytes) -> _Maker:
    value = _integer(field)
    names = {number: b'%b"%b"' % (key, name.encode()) for number, name in ADVICE.items()}
    other = b'%b"%b"' % (key, OTHER_ADVICE.encode())
    return lambda record: names.get(value(record), other)


def _make_content(_field: Field, key: bytes) -> _Maker:
    return lambda record: (
        key + content(record.data, truncated=bool(record.flags & Flag.TRUNCATED))[0]
    )


def _make_exact(_field: Field, key: bytes) -> _Maker:
    def make(record: Record) -> bytes:
        exact = content(record.data, truncated=bool(record.flags & Flag.TRUNCATED))[1]
        return b'%b"%b"' % (key, exact) if exact is not None else b""

    return make


def _make_address(_field: Field, key: bytes) -> _Maker:
    return lambda record: key + json_text(record.data)


def _of_address(make: _Maker) -> _Maker:
    """Return a maker that is given the text of a record's address, whole, in place of the data."""

    def make_of(record: Record) -> bytes:
        flags = record.flags & ~Flag.TRUNCATED
        return make(replace(record, data=address(record.data), flags=flags))

    return make_of


def _make_flag(field: Field, key: bytes) -> _Maker:
    bit, text = field.bit, key + b"true"
    return lambda record: text if record.flags & bit else b""


def _make_call(_field: Field, key: bytes) -> _Maker:
    texts = [b'%b"%b"' % (key, name.encode()) if name else b"" for name in calls.NAMES]
    return lambda record: texts[record.call]


def _make_bin(_field: Field, key: bytes) -> _Maker:
    return lambda record: key + record.process.bin_json


_MAKERS: Final[dict[Form, Callable[[Field, bytes], _Maker]]] = {
    Form.INT: _make_integer,
    Form.OTHER: _make_other,
    Form.TICKS: _make_ticks,
    Form.BIT: _make_bit,
    Form.TEXT: _make_content,
    Form.CONTENT: _make_content,
    Form.EXACT: _make_exact,
    Form.ADDRESS: _make_address,
    Form.ADVICE: _make_advice,
    Form.FLAG: _make_flag,
    Form.CALL: _make_call,
    Form.BIN: _make_bin,
}


# ---- lines -----------------------------------------------------------------------------------


class Reference:
    """Makes lines in one of the two sets of keys.

    `fields` is `full` or `original`; `epoch_ns` is the monotonic time that `ts` counts from.
    """

    def __init__(self, *, fields: str = "full", epoch_ns: int = 0) -> None:
        self._full = fields == "full"
        self._epoch_us = epoch_ns // 1000
        self._makers = [self._compile(event) for event in EVENTS]
        self._names = [b',"event":"%b"' % event.name.encode() for event in EVENTS]

    def encode(
        self, records: Iterable[bytes], processes: ProcessTable, seq: int, anchor: Anchor
    ) -> list[Line]:
        """Return the lines of a batch; the first one has the number `seq`."""
        lines: list[Line] = []
        for data in records:
            ts, pid, tid, number, call, flags, a, b = RECORD_FORMAT.unpack_from(data)
            event = EVENTS[number]
            wanted = flags & Flag.COUNTED
            if number in (_ADOPT, _IMAGE):
                process = processes.image(data)
                if wanted:
                    line = self.compose(
                        "TRACK_ADOPT",
                        ts,
                        adoption(process, words_of(process.argv)),
                        seq + len(lines),
                        anchor,
                    )
                    lines.append((line, number, pid, pid))
                continue
            if event.state:
                _follow(processes, number, pid, a, b)
            if wanted:
                process = processes[pid]
                other: int = tid if event.other == "tid" else a if event.other == "a" else pid
                if number == _EXIT:
                    middle = self._own(event, {"pid": pid, **ending(a)})
                else:
                    record = Record(
                        pid, tid, call, flags, a, b, data[RECORD_FORMAT.size :], process
                    )
                    middle = b"".join([make(record) for make in self._makers[number]])
                parts = [self._start(ts), self._names[number], middle]
                if self._full:
                    parts += self._common(ts, seq + len(lines), anchor)
                    if event.thread:
                        parts.append(b',"tid":%d' % tid)
                    parts.append(process.suffix)
                parts.append(b"}\n")
                lines.append((b"".join(parts), number, pid, other))
            if number == _EXIT:
                processes.forget(pid)
        return lines

    def compose(
        self, name: str, ts: int, values: dict[str, Any], seq: int, anchor: Anchor
    ) -> bytes:
        """Return the line of an event that the daemon itself makes, from its fields' values."""
        event = BY_NAME[name]
        if event.statistic:
            middle = b',"pid":-1,"evt":"%b"' % name.encode()
        else:
            middle = self._names[NUMBER[name]]
        parts = [self._start(ts), middle, self._own(event, values)]
        if self._full:
            parts += self._common(ts, seq, anchor)
        return b"".join([*parts, b"}\n"])

    def moment(self, ts: int) -> float:
        """Return a monotonic time in ns as a `ts`: seconds."""
        return (ts // 1000 - self._epoch_us) / 1e6

    def _start(self, ts: int) -> bytes:
        return b'{"ts":%d.%06d' % divmod(max(0, ts // 1000 - self._epoch_us), 1_000_000)

    def _common(self, ts: int, seq: int, anchor: Anchor) -> tuple[bytes, ...]:
        return (b',"time":"', anchor.utc(ts), b'","seq":%d' % seq)

    def _own(self, event: Event, values: dict[str, Any]) -> bytes:
        """Return the event's keys with the values given, in the table's order."""
        return b"".join(
            b',"%b":%b' % (field.key.encode(), json_bytes(values[field.key]))
            for field in event.fields
            if field.key in values and (self._full or not field.added)
        )

    def _compile(self, event: Event) -> tuple[_Maker, ...]:
        has_address = any(field.form is Form.ADDRESS for field in event.fields)
        makers = []
        for field in event.fields:
            if field.form is not Form.GIVEN and (self._full or not field.added):
                maker = _MAKERS[field.form](field, b',"%b":' % field.key.encode())
                is_text = has_address and field.form in {Form.ADDRESS, Form.EXACT}
                makers.append(_of_address(maker) if is_text else maker)
        return tuple(makers)


def _follow(processes: ProcessTable, number: int, pid: int, a: int, b: int) -> None:
    """Move the process table on by a record that changes it before its own line is made."""
    if number == _FORK:
        processes.fork(pid, a, b)
    elif number == _OVER_BUDGET:
        processes.note_over_budget(pid)
