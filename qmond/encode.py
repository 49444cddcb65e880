"""Records to lines: each record of a batch becomes one line of JSON, made once for log and clients.

What a line is made of is compiled from the table into op codes, which encode.c runs. What changes
the process table, and what is rare and takes more words, is made here.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from struct import unpack_from
from typing import Any, Final

import orjson

from qmond._encode import ffi, lib
from qmond.bpf.ring import RingBuffer
from qmond.clock import Anchor
from qmond.compiler import Compiler
from qmond.events import BY_NAME, EVENTS, NAMES, NUMBER
from qmond.processes import Process, ProcessTable, text_of
from qmond.records import RECORD_FORMAT, Flag
from qmond.redact import Redactor

__all__ = ["Encoder", "address", "adoption", "ending"]

_ADOPT: Final = NUMBER["TRACK_ADOPT"]
_IMAGE: Final = NUMBER["IMAGE"]
_FORK: Final = NUMBER["TRACK_FORK"]
_EXIT: Final = NUMBER["EXIT"]
_CONNECT: Final = NUMBER["CONNECT"]
_OVER_BUDGET: Final = NUMBER["OVER_BUDGET"]
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10  # Linux' include/linux/socket.h
_ROOM: Final = 1 << 20
"""Bytes of a batch: some thousand lines, and at least a few of the longest."""


def address(data: bytes) -> str:
    """Return a struct sockaddr as text: `192.0.2.7:80`, `unix:/run/x.sock`, `family:16`."""
    if len(data) < 2:
        return "family:none"
    (family,) = unpack_from("=H", data)
    if family == _AF_INET and len(data) >= 8:
        return f"{ipaddress.IPv4Address(data[4:8])}:{int.from_bytes(data[2:4])}"
    if family == _AF_INET6 and len(data) >= 24:
        host = ipaddress.IPv6Address(data[8:24])
        return f"[{host}]:{int.from_bytes(data[2:4])}"
    if family == _AF_UNIX:
        path = data[2:]
        if path.startswith(b"\0"):  # abstract: all of it is the name
            return "unix:@" + text_of(path[1:])
        return "unix:" + text_of(path.partition(b"\0")[0])
    return f"family:{family}"


def adoption(
    process: Process, hide: Callable[[bytes], bytes] = lambda word: word
) -> dict[str, Any]:
    """Return the values of a process' TRACK_ADOPT; `hide` takes secrets out of its words."""
    return {
        "pid": process.pid,
        "ppid": process.ppid,
        "bin": process.bin,
        "origin": process.origin,
        "argv": [text_of(hide(word)) for word in process.argv],
        "guest": text_of(process.guest) if process.guest is not None else None,
        "arch": process.arch,
        "uid": process.uid,
        "cgroup": process.cgroup,
        "start": process.start / 1e9,
        "launch": process.launch,
        "container": process.container,
        "parents": [{"pid": pid, "comm": comm} for pid, comm in process.parents],
        "allocations": process.allocations,
    }


def ending(status: int) -> dict[str, int | None]:
    """Return how a process ended, from its wait status: WIFSIGNALED and friends of wait(2)."""
    signal = status & 0x7F
    return {"code": None if signal else status >> 8 & 0xFF, "signal": signal or None}


# ---- lines -----------------------------------------------------------------------------------


class Encoder:
    """Makes the lines of one batch after the other, in one of the two sets of keys.

    `fields` is `full` or `original`; `epoch_ns` is the monotonic time that `ts` counts from; `seq`
    the number of the first line; `redactor` takes secrets out of what guests chose.
    """

    def __init__(
        self,
        *,
        fields: str = "full",
        epoch_ns: int = 0,
        seq: int = 1,
        redactor: Redactor | None = None,
    ) -> None:
        self._full = fields == "full"
        self._epoch_us = epoch_ns // 1000
        compiled = Compiler(full=self._full)
        c = lib.qmond_new(
            ffi.new("struct qmond_event[]", compiled.events),
            len(compiled.events),
            ffi.new("struct qmond_op[]", compiled.ops),
            len(compiled.ops),
            ffi.new("struct qmond_name[]", compiled.names),
            len(compiled.names),
            compiled.texts,
            len(compiled.texts),
            _ROOM,
        )
        if c == ffi.NULL:
            raise MemoryError
        self._c = ffi.gc(c, lib.qmond_free)
        self._c.epoch_us = self._epoch_us
        self._c.seq = seq
        self.redact(redactor or Redactor(()))
        self._anchor = Anchor(0)
        self._held: tuple[bytes, int, int, int] | None = None
        self._counts = ffi.new("uint64_t[64]")
        self._tally = ffi.new("uint32_t[]", _ROOM // 64), ffi.new("uint32_t[]", _ROOM // 64)
        self._chosen = ffi.new("uint32_t *")

    # ---- making a batch ------------------------------------------------------------------------

    @property
    def seq(self) -> int:
        """The number of the next line."""
        number: int = self._c.seq
        return number

    def follow(self, anchor: Anchor) -> None:
        """Render moments by where the wall clock stands now."""
        self._anchor = anchor
        self._c.offset_ns = anchor.offset_ns

    def redact(self, redactor: Redactor) -> None:
        """Take these secrets out from the next batch on."""
        self._redactor = redactor
        self._c.keep_raw = bool(redactor.rules)

    def begin(self) -> None:
        """Begin a new batch."""
        lib.qmond_clear(self._c)
        if self._held is not None:
            held, self._held = self._held, None
            self.append(*held)

    def drain(self, ring: RingBuffer, processes: ProcessTable) -> bool:
        """Add what is in the ring, until it is empty or the batch is full; says whether any was."""
        before = ring.consumed[0]
        view = ffi.new("struct qmond_ring *", self._pointers(ring))
        while self._held is None:
            result = lib.qmond_encode(self._c, view)
            if result == lib.QMOND_RECORD:
                size = self._c.record_size
                self._tell(bytes(ffi.buffer(self._c.record, size)), processes)
            elif result == lib.QMOND_PROCESS:
                (pid,) = ffi.cast("uint32_t *", self._c.record + 8)[0:1]
                self._enter(processes[pid])
            elif result == lib.QMOND_BEYOND and ring.slide():
                view = ffi.new("struct qmond_ring *", self._pointers(ring))
            else:
                break
        self._redact()
        return ring.consumed[0] != before

    def tell(self, name: str, ts: int, values: dict[str, Any]) -> None:
        """Add the line of an event that the daemon itself makes, from its fields' values."""
        pid = values.get("pid", -1) & 0xFFFFFFFF
        self.append(self.compose(name, ts, values), NUMBER[name], pid, pid)

    def append(self, line: bytes, number: int, pid: int, other: int) -> None:
        """Add a line with its newline, its event's number, its process, and another or the same."""
        if not lib.qmond_append(self._c, line, len(line), number, pid, other):
            self._held = line, number, pid, other  # the batch is full: it is the next one's first

    def compose(
        self, name: str, ts: int, values: dict[str, Any], *, tid: int = 0, suffix: bytes = b""
    ) -> bytes:
        """Return a line with the next line's number, which stays the next one's."""
        event = BY_NAME[name]
        if event.statistic:
            middle = b',"pid":-1,"evt":"%b"' % name.encode()
        else:
            middle = b',"event":"%b"' % name.encode()
        us = max(0, ts // 1000 - self._epoch_us)
        parts = [b'{"ts":%d.%06d' % divmod(us, 1_000_000), middle]
        parts += [
            b',"%b":%b' % (field.key.encode(), orjson.dumps(values[field.key]))
            for field in event.fields
            if field.key in values and (self._full or not field.added)
        ]
        if self._full:
            parts += [b',"time":"', self._anchor.utc(ts), b'","seq":%d' % self.seq]
            if tid:
                parts.append(b',"tid":%d' % tid)
            parts.append(suffix)
        return b"".join([*parts, b"}\n"])

    def moment(self, ts: int) -> float:
        """Return a monotonic time in ns as a `ts`: seconds."""
        return (ts // 1000 - self._epoch_us) / 1e6

    def forget(self, pid: int) -> None:
        """Ask the process table again, before the next line of this process."""
        lib.qmond_forget(self._c, pid)

    # ---- the batch -----------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many lines there are."""
        count: int = self._c.line_count
        return count

    @property
    def data(self) -> memoryview:
        """All lines; valid until the next batch."""
        return memoryview(ffi.buffer(self._c.out, self._c.used))

    @property
    def index(self) -> Any:  # noqa: ANN401 - a cdata
        """Where each line is, as encode.c has it: struct qmond_line; valid as `data` is."""
        return self._c.lines

    def by_event(self) -> Counter[str]:
        """Return how many lines there are of each event."""
        lib.qmond_count(self._c, self._counts)
        pairs = zip(NAMES, self._counts[0 : len(NAMES)], strict=True)
        return Counter({name: count for name, count in pairs if count})

    def by_process(self) -> Counter[int]:
        """Return how many lines there are of each process."""
        pids, counts = self._tally
        found = lib.qmond_tally(self._c, pids, counts)
        return Counter(dict(zip(pids[0:found], counts[0:found], strict=True)))

    def select(self, mask: int, pids: frozenset[int] | None = None) -> tuple[bytes, int]:
        """Return the lines of events whose bits are in `mask` and of these processes: their number.

        A line may belong to two processes, and one of them is enough.
        """
        out = ffi.new("char[]", max(1, self._c.used))
        wanted = ffi.NULL if pids is None else ffi.new("uint32_t[]", sorted(_unsigned(pids)))
        size = lib.qmond_select(self._c, mask, wanted, len(pids or ()), out, self._chosen)
        return bytes(ffi.buffer(out, size)), self._chosen[0]

    # ---- what encode.c leaves to Python --------------------------------------------------------

    def _tell(self, data: bytes, processes: ProcessTable) -> None:
        """Do what there is to do with a record before, or instead of, a line by its op codes."""
        ts, pid, tid, number, _, flags, a, b = RECORD_FORMAT.unpack_from(data)
        counted = flags & Flag.COUNTED
        if number == _FORK:
            processes.fork(pid, a & 0xFFFFFFFF, b)
        elif number in (_ADOPT, _IMAGE):
            process = processes.image(data)
            if counted:
                told = adoption(process, self._redactor.hide)
                line = self.compose("TRACK_ADOPT", ts, told)
                self.append(line, _ADOPT, pid, pid)
        elif number == _EXIT:
            if counted:
                values: dict[str, Any] = {"pid": pid, **ending(a)}
                line = self.compose("EXIT", ts, values, suffix=processes[pid].suffix)
                self.append(line, _EXIT, pid, pid)
            processes.forget(pid)
        elif number == _CONNECT and counted:
            values = {"pid": pid, "addr": address(data[RECORD_FORMAT.size :])}
            if flags & Flag.FAULT:
                values["fault"] = True
            line = self.compose("CONNECT", ts, values, tid=tid, suffix=processes[pid].suffix)
            self.append(line, _CONNECT, pid, pid)
        elif number == _OVER_BUDGET:
            processes.note_over_budget(pid)

    def _redact(self) -> None:
        """Take secrets out of the batch; where there is none, that is one look at all texts."""
        c, find = self._c, self._redactor.finds
        if not c.raw_used or not find(raw := bytes(ffi.buffer(c.raw, c.raw_used))):
            return
        lines, end = c.lines, c.line_count
        parts, told = [], 0
        stack = [(0, end)]
        while stack:
            low, high = stack.pop()
            begin, last = lines[low].raw, lines[high - 1]
            if not find(raw[begin : last.raw + last.raw_size]):
                continue
            if high - low > 1:
                middle = (low + high) // 2
                stack += [(middle, high), (low, middle)]
                continue
            at = lines[low].offset
            stop = lines[high].offset if high < end else c.used
            line = bytes(ffi.buffer(c.out + at, stop - at))
            event = EVENTS[lines[low].event]
            parts += [bytes(ffi.buffer(c.out + told, at - told))]
            parts += [self._redactor.line(line, event, raw[begin : begin + last.raw_size])]
            told = stop
        lines_now = b"".join([*parts, bytes(ffi.buffer(c.out + told, c.used - told))])
        if not lib.qmond_replace(c, lines_now, len(lines_now)):
            raise MemoryError

    def _enter(self, process: Process) -> None:
        name, suffix = process.bin_json, process.suffix
        if not lib.qmond_enter(self._c, process.pid, name, len(name), suffix, len(suffix)):
            raise MemoryError

    def _pointers(self, ring: RingBuffer) -> tuple[Any, Any, Any, int, int]:
        def pointer(ctype: str, view: memoryview) -> Any:  # noqa: ANN401 - a cdata
            return ffi.cast(ctype, ffi.from_buffer(view))

        return (
            pointer("uint64_t *", ring.consumed),
            pointer("const uint64_t *", ring.produced),
            pointer("const unsigned char *", ring.data),
            ring.origin,
            len(ring.data),
        )


def _unsigned(pids: frozenset[int]) -> list[int]:
    return [pid for pid in pids if 0 <= pid < 1 << 32]
