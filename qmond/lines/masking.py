"""Secrets masked in a batch, within the time that there is for it.

To mask a line takes a hundred times as long as to make it, and guests choose how many there are. So
each family of processes has an allowance of time a second: beyond it, a text in which something is
found is left out as a whole, and the line says so (`withheld`). So are all texts of that process
for the rest of the second, which costs nothing. Other families' lines are masked as ever.
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
    """How long the masking of one second's lines may take, for each family and for all of them.

    A family is a process that is watched by its name, and all that descend from it.
    """

    def __init__(self, each: float = 0.02, total: float = 0.2) -> None:
        """Allow so many seconds of each second."""
        self._each = each
        self._total = total
        self._spent: defaultdict[int, float] = defaultdict(float)
        self._sum = 0.0
        self._second = 0

    def renew(self) -> bool:
        """Begin anew where a new second has begun; says whether something was spent in the old."""
        second = int(time.monotonic())
        if second == self._second:
            return False
        spent, self._second, self._sum = bool(self._spent), second, 0.0
        self._spent.clear()
        return spent

    def is_spent(self, family: int) -> bool:
        """Whether a family has nothing left in this second."""
        return bool(self._spent) and (
            self._sum > self._total or self._spent.get(family, 0.0) > self._each
        )

    @contextmanager
    def of(self, family: int) -> Iterator[bool]:
        """Say whether there is time left, and charge what is taken."""
        allowed = not self.is_spent(family)
        began = time.perf_counter()
        try:
            yield allowed
        finally:
            if allowed:
                took = time.perf_counter() - began
                self._spent[family] += took
                self._sum += took


class Masking:
    """Masks the batches of one encoder, whose C side is `encoder`."""

    def __init__(self, encoder: Any) -> None:  # noqa: ANN401 - a cdata
        self.allowance = Allowance()
        self._c = encoder
        self._withheld: set[int] = set()
        self.configure(Redactor(()))

    def configure(self, redactor: Redactor) -> None:
        """Go by other rules from the next batch on."""
        self._redactor = redactor
        self._c.keep_raw = bool(redactor.rules)

    def renew(self) -> None:
        """Let processes have texts again, where a new second has begun."""
        if self.allowance.renew():
            for pid in self._withheld:
                lib.qmond_withhold(self._c, pid, False)  # noqa: FBT003 - a C function's
            self._withheld.clear()

    def holds(self, process: Process) -> bool:
        """Whether a process that is entered now has no texts in this second."""
        if self.allowance.is_spent(process.tree):
            self._withheld.add(process.pid)
            return True
        return False

    def argv(self, process: Process, allowance: Allowance | None = None) -> list[bytes] | None:
        """Return a command line as it may be told; None where masking takes too long.

        It costs another allowance where that is given: who asks shall not cost the log its texts.
        """
        words = words_of(process.argv)
        if not self._redactor.rules or not self._redactor.finds(b"\n".join(words)):
            return words
        with (allowance or self.allowance).of(process.tree) as allowed:
            return [self._redactor.hide(word) for word in words] if allowed else None

    def mask(self, processes: ProcessTable) -> None:
        """Take secrets out of the batch; where there is none, that is one look at all texts."""
        c, search = self._c, self._redactor.search
        raw = bytes(ffi.buffer(c.raw.data, c.raw.used))
        changed: list[tuple[int, bytes | None]] = []
        begins: list[int] = []
        at = 0
        while at < len(raw) and (found := search(raw, at)) is not None:
            begins = begins or [line.raw for line in ffi.unpack(c.lines, c.line_count)]
            number = bisect_right(begins, found) - 1
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
            at = max(begin + size + 1, found + 1)
        if changed:
            self._replace(changed)

    def withhold(self) -> None:
        """Leave the texts of the whole batch out."""
        self._replace([(at, None) for at in range(self._c.line_count)])

    def _line(self, number: int) -> bytes:
        c = self._c
        begin = c.lines[number].offset
        end = c.lines[number + 1].offset if number + 1 < c.line_count else c.out.used
        return bytes(ffi.buffer(c.out.data + begin, end - begin))

    def _replace(self, changed: list[tuple[int, bytes | None]]) -> None:
        """Put other lines in the place of some, in their order; None is one without its text."""
        c = self._c
        parts, told = [], 0
        for number, line in changed:
            begin = c.lines[number].offset
            before = self._line(number)
            parts += [ffi.buffer(c.out.data + told, begin - told)[:]]
            parts += [withheld(before, EVENTS[c.lines[number].event]) if line is None else line]
            told = begin + len(before)
        parts += [ffi.buffer(c.out.data + told, c.out.used - told)[:]]
        lines = b"".join(parts)
        if not lib.qmond_replace(c, lines, len(lines)):  # there is no room for what masks add
            self._replace([(number, None) for number, _ in changed])
