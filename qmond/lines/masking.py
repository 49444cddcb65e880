"""Masking the secrets in a batch of lines, within an allowance of time.

Masking a line takes a hundred times as long as encoding it, and guests choose how many lines have
secrets. So each process tree has an allowance of time per second. When it is spent, a text with a
match is left out as a whole, and the line has `"withheld":true`. All other texts of that process
are left out for the rest of the second, too, which costs no time. The lines of other process trees
are masked as before.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qmond._encode import ffi, lib
from qmond.events.table import EVENTS
from qmond.lines.redact import Redactor, withheld
from qmond.processes.table import Process, ProcessTable, words_of

__all__ = ["Allowance", "Masking"]


class Allowance:
    """The time that masking may take in one second: for each process tree, and for all of them.

    The root of a process tree is a process that is watched because of its name.
    """

    def __init__(self, each: float = 0.02, total: float = 0.2) -> None:
        """Allow `each` seconds per second for one process tree, `total` for all of them."""
        self._each = each
        self._total = total
        self._spent: defaultdict[int, float] = defaultdict(float)
        self._sum = 0.0
        self._second = 0

    def renew(self) -> bool:
        """Restore the allowance in a new second; returns whether any of the last was spent."""
        second = int(time.monotonic())
        if second == self._second:
            return False
        spent, self._second, self._sum = bool(self._spent), second, 0.0
        self._spent.clear()
        return spent

    def is_spent(self, tree: int) -> bool:
        """Whether a process tree has no time left in this second."""
        return bool(self._spent) and (
            self._sum > self._total or self._spent.get(tree, 0.0) > self._each
        )

    @contextmanager
    def of(self, tree: int) -> Iterator[bool]:
        """Yield whether a process tree has time left, and charge it for the `with` block."""
        allowed = not self.is_spent(tree)
        began = time.perf_counter()
        try:
            yield allowed
        finally:
            if allowed:
                took = time.perf_counter() - began
                self._spent[tree] += took
                self._sum += took


class Masking:
    """Masks the batches of one encoder; `encoder` is its `struct qmond_encoder`."""

    def __init__(self, encoder: Any) -> None:  # noqa: ANN401 - a cdata
        self.allowance = Allowance()
        self._c = encoder
        self._withheld: set[int] = set()
        self.configure(Redactor(()))

    def configure(self, redactor: Redactor) -> None:
        """Use the rules of `redactor` from the next batch on."""
        self._redactor = redactor
        self._c.keep_raw = bool(redactor.rules)

    def renew(self) -> None:
        """Restore the allowance in a new second: processes have texts again."""
        if self.allowance.renew():
            for pid in self._withheld:
                lib.qmond_withhold(self._c, pid, False)  # noqa: FBT003 - a C function's
            self._withheld.clear()

    def holds(self, process: Process) -> bool:
        """Whether the texts of a process are left out for the rest of this second."""
        if self.allowance.is_spent(process.tree):
            self._withheld.add(process.pid)
            return True
        return False

    def argv(self, process: Process, allowance: Allowance | None = None) -> list[bytes] | None:
        """Return the masked words of a command line, or None if there is no time left.

        The time is charged to `allowance`, or to the log's own. A client's request has one of its
        own, so that it cannot use up the log's.
        """
        words = words_of(process.argv)
        if not self._redactor.rules or not self._redactor.finds(b"\n".join(words)):
            return words
        with (allowance or self.allowance).of(process.tree) as allowed:
            return [self._redactor.hide(word) for word in words] if allowed else None

    def mask(self, processes: ProcessTable) -> None:
        """Mask the secrets of the batch. A batch without any takes one search of all its texts."""
        c, search = self._c, self._redactor.search
        raw = bytes(ffi.buffer(c.raw.data, c.raw.used))
        changed: list[tuple[int, bytes | None]] = []
        begins: list[int] = []
        at = 0
        while at < len(raw) and (match := search(raw, at)) is not None:
            begins = begins or [line.raw for line in ffi.unpack(c.lines, c.line_count)]
            number = bisect_right(begins, match) - 1
            begin, size = begins[number], c.lines[number].raw_size
            process = processes[c.lines[number].pid]
            with self.allowance.of(process.tree) as allowed:
                line = None
                if allowed:
                    event = EVENTS[c.lines[number].event]
                    line = self._redactor.line(self._line(number), event, raw[begin : begin + size])
                elif process.pid not in self._withheld:
                    self._withheld.add(process.pid)
                    lib.qmond_withhold(c, process.pid, True)  # noqa: FBT003 - a C function's
                changed.append((number, line))
            at = max(begin + size + 1, match + 1)
        if changed:
            self._replace(changed)

    def withhold(self) -> None:
        """Leave out the texts of all lines of the batch."""
        self._replace([(at, None) for at in range(self._c.line_count)])

    def _line(self, number: int) -> bytes:
        c = self._c
        begin = c.lines[number].offset
        end = c.lines[number + 1].offset if number + 1 < c.line_count else c.out.used
        return bytes(ffi.buffer(c.out.data + begin, end - begin))

    def _replace(self, changed: list[tuple[int, bytes | None]]) -> None:
        """Replace lines, given by number in ascending order. None: the line without its text."""
        c = self._c
        parts, copied = [], 0
        for number, line in changed:
            begin = c.lines[number].offset
            before = self._line(number)
            parts += [ffi.buffer(c.out.data + copied, begin - copied)[:]]
            parts += [withheld(before, EVENTS[c.lines[number].event]) if line is None else line]
            copied = begin + len(before)
        parts += [ffi.buffer(c.out.data + copied, c.out.used - copied)[:]]
        lines = b"".join(parts)
        if not lib.qmond_replace(c, lines, len(lines)):  # the masked lines are too long
            self._replace([(number, None) for number, _ in changed])
