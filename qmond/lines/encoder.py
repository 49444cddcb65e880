"""Records to lines: each record of a batch becomes one line of JSON, for the log and all clients.

The table of events is compiled into op codes, which encoder.c runs. The text of each value, such as
a socket address, is made there. Records that change the process table are handled here.
"""

from __future__ import annotations

import base64
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from qmond._encode import ffi, lib
from qmond.bpf.ring import RingBuffer
from qmond.clock import Anchor
from qmond.escape import json_bytes
from qmond.events.records import RECORD_FORMAT, Flag
from qmond.events.table import BY_NAME, NAMES, NUMBER
from qmond.lines.compiler import Compiler
from qmond.lines.masking import Masking
from qmond.lines.redact import Redactor
from qmond.processes.table import Process, ProcessTable, text_of

__all__ = ["Encoder", "adoption", "ending"]

_log = logging.getLogger(__name__)

_ADOPT: Final = NUMBER["TRACK_ADOPT"]
_IMAGE: Final = NUMBER["IMAGE"]
_FORK: Final = NUMBER["TRACK_FORK"]
_EXIT: Final = NUMBER["EXIT"]
_OVER_BUDGET: Final = NUMBER["OVER_BUDGET"]
_ROOM: Final = 1 << 20
"""Bytes of a batch: some thousand lines, or a few of the longest."""
_unset = ffi.new_allocator(should_clear_after_alloc=False)
_FAULTS: Final = 20
"""How many different faults are logged."""


def adoption(process: Process, argv: Iterable[bytes] | None) -> dict[str, Any]:
    """Return the values of a process' TRACK_ADOPT; `argv` is masked, or None if it is withheld."""
    words = list(argv or ())
    values = {
        "pid": process.pid,
        "ppid": process.ppid,
        "bin": process.bin,
        "origin": process.origin,
        "argv": [text_of(word) for word in words],
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
    if not all(map(_is_valid, words)):
        values["argv_b64"] = [_base64(word) for word in words]
    if process.guest is not None and not _is_valid(process.guest):
        values["guest_b64"] = _base64(process.guest)
    for key, path in (("guest_path", process.guest_path), ("cwd", process.cwd)):
        if path is not None:
            values[key] = text_of(path)
            if not _is_valid(path):
                values[f"{key}_b64"] = _base64(path)
    if process.truncated:
        values["truncated"] = True
    if argv is None:
        values["withheld"] = True
    return values


def _is_valid(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ending(status: int) -> dict[str, int | None]:
    """Return the exit code or the signal of a wait status, see wait(2)."""
    signal = status & 0x7F
    return {"code": None if signal else status >> 8 & 0xFF, "signal": signal or None}


# ---- lines -----------------------------------------------------------------------------------


class Encoder:
    """Makes the lines of a batch, then of the next one.

    `fields` is `full` or `original`. `epoch_ns` is the monotonic time in ns that `ts` counts from,
    `seq` the number of the first line. `redactor` masks secrets in the texts of guests.
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
        self.masking = Masking(self._c)
        self.masking.configure(redactor or Redactor(()))
        self._anchor = Anchor(0)
        self._held: tuple[bytes, int, int, int] | None = None
        self._failed: Counter[str] = Counter()
        self._failures: set[str] = set()
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
        """Use another anchor for the wall clock's time in lines."""
        self._anchor = anchor
        self._c.offset_ns = anchor.offset_ns

    def begin(self) -> None:
        """Begin a new batch."""
        lib.qmond_clear(self._c)
        self.masking.renew()
        if self._held is not None:
            held, self._held = self._held, None
            self.append(*held)

    def drain(self, ring: RingBuffer, processes: ProcessTable) -> bool:
        """Add the ring's records until it is empty or the batch is full; says whether it took any.

        If no line can be made of a record, it is skipped, and `take_failed` counts it.
        """
        before = ring.consumed[0]
        view = ffi.new("struct qmond_ring *", self._pointers(ring))
        while self._held is None:
            result = lib.qmond_encode(self._c, view)
            if result == lib.QMOND_RECORD:
                data = bytes(ffi.buffer(self._c.record, self._c.record_size))
                try:
                    self._handle(data, processes)
                except Exception as error:  # noqa: BLE001 - one bad record must not stop others
                    self._fail(data, error)
            elif result == lib.QMOND_PROCESS:
                (pid,) = ffi.unpack(ffi.cast("uint32_t *", self._c.record + 8), 1)
                self._enter(processes[pid])
            elif result == lib.QMOND_UNFIT:
                data = bytes(ffi.buffer(self._c.record, RECORD_FORMAT.size))
                self._fail(data, ValueError("its line is longer than a batch"))
            elif result == lib.QMOND_BEYOND and ring.slide():
                view = ffi.new("struct qmond_ring *", self._pointers(ring))
            else:
                break
        try:
            self.masking.mask(processes)
        except Exception as error:  # noqa: BLE001 - a faulty pattern must not show secrets
            self._log_fault(f"redact: {error!r}")
            self.masking.withhold()
        return ring.consumed[0] != before

    def tell(self, name: str, ts: int, values: dict[str, Any]) -> None:
        """Add the line of an event of the daemon's own; `values` by key, `ts` in monotonic ns."""
        pid = values.get("pid", -1) & 0xFFFFFFFF
        self.append(self.compose(name, ts, values), NUMBER[name], pid, pid)

    def append(self, line: bytes, number: int, pid: int, other: int) -> None:
        """Add a line with its newline, for an event number and up to two processes."""
        if lib.qmond_append(self._c, line, len(line), number, pid, other):
            return
        if len(line) > _ROOM:
            self._failed[NAMES[number]] += 1
        else:
            self._held = line, number, pid, other  # the batch is full: it begins the next one

    def compose(self, name: str, ts: int, values: dict[str, Any], *, suffix: bytes = b"") -> bytes:
        """Return a line with the next number; `append` counts it."""
        event = BY_NAME[name]
        if event.statistic:
            middle = b',"pid":-1,"evt":"%b"' % name.encode()
        else:
            middle = b',"event":"%b"' % name.encode()
        us = max(0, ts // 1000 - self._epoch_us)
        parts = [b'{"ts":%d.%06d' % divmod(us, 1_000_000), middle]
        parts += [
            b',"%b":%b' % (field.key.encode(), json_bytes(values[field.key]))
            for field in event.fields
            if field.key in values and (self._full or not field.added)
        ]
        if self._full:
            parts += [b',"time":"', self._anchor.utc(ts), b'","seq":%d' % self.seq]
            parts.append(suffix)
        return b"".join([*parts, b"}\n"])

    def moment(self, ts: int) -> float:
        """Return a monotonic time in ns as a `ts`: seconds."""
        return (ts // 1000 - self._epoch_us) / 1e6

    def take_failed(self) -> Counter[str]:
        """Return how many events could not be made into lines since the last call, by event."""
        failed, self._failed = self._failed, Counter()
        return failed

    def forget(self, pid: int) -> None:
        """Drop the cached texts of a process: the process table has other ones now."""
        lib.qmond_forget(self._c, pid)

    # ---- the batch -----------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of lines."""
        count: int = self._c.line_count
        return count

    @property
    def data(self) -> memoryview:
        """All lines; valid until `begin`."""
        return memoryview(ffi.buffer(self._c.out.data, self._c.out.used))

    @property
    def index(self) -> Any:  # noqa: ANN401 - a cdata
        """The place of each line, as an array of struct qmond_line; valid until `begin`."""
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
        """Return the lines of the events in `mask` and of some processes, and their number.

        `pids` None means all processes. If a line belongs to two
        processes, one of them is enough.
        """
        room = self._c.out.used
        out = _unset("char[]", max(1, room))
        wanted = ffi.NULL if pids is None else ffi.new("uint32_t[]", sorted(_unsigned(pids)))
        count = 0 if pids is None else len(wanted)
        size = lib.qmond_select(self._c, mask, wanted, count, out, room, self._chosen)
        return bytes(ffi.buffer(out, size)), self._chosen[0]

    # ---- records that Python handles ------------------------------------------------------------

    def _handle(self, data: bytes, processes: ProcessTable) -> None:
        """Update the process table by a record, and make its line if it has no op codes."""
        ts, pid, _, number, _, flags, a, b = RECORD_FORMAT.unpack_from(data)
        counted = flags & Flag.COUNTED
        if number == _FORK:
            processes.fork(pid, a & 0xFFFFFFFF, b)
        elif number in (_ADOPT, _IMAGE):
            process = processes.image(data)
            if counted:
                told = adoption(process, self.masking.argv(process))
                line = self.compose("TRACK_ADOPT", ts, told)
                self.append(line, _ADOPT, pid, pid)
        elif number == _EXIT:
            if counted:
                values: dict[str, Any] = {"pid": pid, **ending(a)}
                line = self.compose("EXIT", ts, values, suffix=processes[pid].suffix)
                self.append(line, _EXIT, pid, pid)
            processes.forget(pid)
        elif number == _OVER_BUDGET:
            processes.note_over_budget(pid)
        else:
            raise ValueError("its row leaves it to Python, and no code here handles it")

    def _fail(self, record: bytes, error: Exception) -> None:
        """Count an event that could not be made into a line."""
        _, _, _, number, _, flags, _, _ = RECORD_FORMAT.unpack_from(record)
        if flags & Flag.COUNTED:
            self._failed[NAMES[number]] += 1
        self._log_fault(f"{NAMES[number]}: {error!r}")

    def _log_fault(self, fault: str) -> None:
        """Log a fault once; after many different ones, log no more."""
        if len(self._failures) < _FAULTS and fault not in self._failures:
            self._failures.add(fault)
            _log.error("an event's line could not be made: %s", fault)

    def _enter(self, process: Process) -> None:
        name, suffix = process.bin_json, process.suffix
        holds = self.masking.holds(process)
        if not lib.qmond_enter(self._c, process.pid, name, len(name), suffix, len(suffix), holds):
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
