"""Compiles the table of events into the op codes that encoder.c runs for each record."""

from __future__ import annotations

from struct import calcsize
from typing import Final, assert_never

from qmond.events import calls
from qmond.events.fields import Event, Field, Form
from qmond.events.records import C_TYPES, RECORD
from qmond.events.table import EVENTS
from qmond.events.words import ADVICE, OTHER_ADVICE
from qmond.lines.opcodes import How, Op

__all__ = ["Compiler"]

_SLOTS: Final = {
    member: (calcsize("=" + "".join(C_TYPES[t] for _, t in RECORD[:at])), calcsize(C_TYPES[ctype]))
    for at, (member, ctype) in enumerate(RECORD)
}
"""Where in a record each member is, and its size in bytes."""
_TEXTS: Final = {
    Form.TEXT: Op.TEXT,
    Form.CONTENT: Op.TEXT,
    Form.ADDRESS: Op.ADDRESS,
    Form.BIN: Op.BIN,
}
"""The op that writes a text."""


class Compiler:
    """The op codes of all events, and the names and texts that they refer to.

    Raises ValueError if an event with records has a field that only the daemon can give.
    """

    def __init__(self, *, full: bool) -> None:
        self._full = full
        self.ops: list[tuple[int, int, int, int, int, int]] = []
        self.names: list[tuple[int, int, int]] = []
        self.texts = b""
        self.events = [self._event(event) for event in EVENTS]

    def _event(self, event: Event) -> tuple[int, int, int, int, int]:
        first = len(self.ops)
        self._literal(b'{"ts":')
        self._op(Op.MOMENT)
        self._literal(b',"event":"%b"' % event.name.encode())
        for field in event.fields:
            if self._full or not field.added:
                self._field(field)
        if self._full:
            self._literal(b',"time":"')
            self._op(Op.UTC)
            self._literal(b'Z","seq":')
            self._op(Op.SEQ)
            if event.thread:
                self._literal(b',"tid":')
                self._op(Op.UNSIGNED, "tid")
            self._op(Op.SUFFIX)
        self._literal(b"}\n")
        other = _SLOTS[event.other][0] if event.other else 0
        return first, len(self.ops) - first, _how(event), other, 4 if event.other else 0

    def _field(self, field: Field) -> None:
        key = b',"%b":' % field.key.encode()
        match field.form:
            case Form.INT:
                self._literal(key)
                signed = field.ctype.startswith("s")
                size = calcsize(C_TYPES[field.ctype])
                self._op(Op.SIGNED if signed else Op.UNSIGNED, field.slot, size=size)
            case Form.OTHER:
                self._op(Op.OTHER, field.slot, text=key)
            case Form.BIT | Form.TICKS:
                self._literal(key)
                op = Op.BIT if field.form is Form.BIT else Op.TICKS
                self._op(op, field.slot, bit=field.bit)
            case Form.ADVICE:
                named = {number: name.encode() for number, name in ADVICE.items()}
                self._names(key, "a", named, OTHER_ADVICE.encode(), size=4)
            case Form.CALL:
                own = {at: name.encode() for at, name in enumerate(calls.NAMES) if name}
                self._names(key, "call", own, None, size=2)
            case Form.FLAG:
                bit = field.bit.bit_length() - 1
                self._op(Op.FLAG, bit=bit, text=key + b"true")
            case Form.EXACT:
                self._op(Op.EXACT, text=key)
            case Form.TEXT | Form.CONTENT | Form.ADDRESS | Form.BIN:
                self._literal(key)
                self._op(_TEXTS[field.form])
            case Form.GIVEN:
                pass  # _how() has checked that the daemon gives it
            case _:
                assert_never(field.form)

    def _op(
        self, op: Op, slot: str = "", *, size: int | None = None, bit: int = 0, text: bytes = b""
    ) -> None:
        # all hosts are little-endian: the low bytes of a number come first
        at, whole = _SLOTS[slot] if slot else (0, 0)
        self.ops.append((op, at, whole if size is None else size, bit, *self._text(text)))

    def _literal(self, text: bytes) -> None:
        self._op(Op.LITERAL, text=text)

    def _names(
        self, key: bytes, slot: str, names: dict[int, bytes], other: bytes | None, *, size: int
    ) -> None:
        """Add an op that writes the key and a number's name; for other numbers `other`, if any."""
        first = len(self.names)
        default = b'%b"%b"' % (key, other) if other is not None else b""
        self.names.append((0, *self._text(default)))
        for number in sorted(names):
            self.names.append((number, *self._text(b'%b"%b"' % (key, names[number]))))
        self.ops.append((Op.NAME, _SLOTS[slot][0], size, 0, first, len(names) + 1))

    def _text(self, text: bytes) -> tuple[int, int]:
        at = self.texts.find(text)
        if at < 0:
            at = len(self.texts)
            self.texts += text
        return at, len(text)


def _how(event: Event) -> How:
    """Return how an event's records are handled: Python handles what the process table needs."""
    given = [field.key for field in event.fields if field.form is Form.GIVEN]
    if event.state:
        return How.HANDLE if given or event.internal else How.FOLLOW
    if given and event.is_recorded:
        raise ValueError(f"{event.name}: no record brings {', '.join(given)}")
    return How.ENCODE
