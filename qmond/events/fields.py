"""Events and their fields: the classes and functions that the table of events is written with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from qmond.events.records import RECORD, Flag, Layout

__all__ = [
    "CALL",
    "DAEMON",
    "Event",
    "Field",
    "Form",
    "Group",
    "address",
    "content",
    "exact",
    "flag",
    "given",
    "integer",
    "other",
    "text",
]


class Form(StrEnum):
    """How a field's JSON value comes from a record."""

    INT = "integer"
    OTHER = "other"  # a second process' ID, absent where it is the record's own process
    TICKS = "ticks"  # nanoseconds since boot, as seconds in whole clock ticks of 10 ms
    BIT = "bit"
    TEXT = "text"  # a path: the data, as UTF-8
    CONTENT = "content"  # what was read or written: the data, as UTF-8
    EXACT = "exact"  # the data in base64, where they are no valid UTF-8
    ADDRESS = "address"  # a socket address
    ADVICE = "advice"  # the name of an madvise(2) advice
    FLAG = "flag"  # true where a flag of the record is set, otherwise absent
    CALL = "call"  # the system call's name, where it is not the event's own
    BIN = "bin"  # the interpreter's file name, from the process table
    GIVEN = "given"  # the daemon gives the value; `json` says which type


class Group(StrEnum):
    """What an event is about."""

    PROCESS = "process"
    IDENTITY = "identity"
    FILE = "file"
    NET = "net"
    MEMORY = "memory"
    SIGNAL = "signal"
    SCHED = "sched"
    DAEMON = "daemon"
    LOSS = "loss"


@dataclass(frozen=True, slots=True)
class Field:
    """One key of an event's JSON object.

    `slot` is the record's member that has the value, `ctype` its type in C, `bit` a bit of it.
    `json` is the type of a value that the daemon gives. Keys with `added` are not in the original
    interface. Keys with `optional` may be absent.
    """

    key: str
    form: Form
    meaning: str
    slot: str = ""
    ctype: str = "u64"
    bit: int = 0
    unit: str = ""
    json: str = ""
    added: bool = False
    optional: bool = False


DAEMON: Final = "the daemon"
"""The source of events that have no record of the kernel side."""


@dataclass(frozen=True, slots=True)
class Event:
    """One type of event.

    `other` is the slot of a second process' ID, for filters. `strace` is the line in strace's
    notation, with keys in braces; ctl/show/strace.py has the rules.
    """

    name: str
    when: str
    source: str
    fields: tuple[Field, ...]
    thread: bool = True  # lines have `tid`
    process: bool = True  # lines have `arch` and `guest`
    state: bool = False  # the process table needs it: its records come even if it is not wanted
    own: bool = False  # not in the original interface
    internal: bool = False  # for the process table alone: it has no lines
    statistic: bool = False  # has its name as `evt`, not `event`
    rare: bool = False  # lines are kept a second time, by user: log/lives.py
    other: str = ""
    group: Group | None = None
    strace: str = ""
    layout: Layout = RECORD

    @property
    def is_limitable(self) -> bool:
        """Whether `limits` may hold it back: it has records, and the process table needs none."""
        return self.is_recorded and not self.state

    @property
    def is_recorded(self) -> bool:
        """Whether each of these events has a record of the kernel side."""
        return not (self.source == DAEMON or self.statistic)


def integer(key: str, slot: str, ctype: str, meaning: str, unit: str = "") -> Field:
    """Return the field of a number in a slot of the record."""
    return Field(key, Form.INT, meaning, slot=slot, ctype=ctype, unit=unit)


def given(key: str, json: str, meaning: str, *, added: bool = True, unit: str = "") -> Field:
    """Return the field of a value that the daemon gives; `json` is its type in schema.py."""
    return Field(key, Form.GIVEN, meaning, json=json, added=added, unit=unit)


def other(key: str, slot: str, meaning: str) -> Field:
    """Return the field of a second process in a slot; the key is absent if it is the first one."""
    return Field(key, Form.OTHER, meaning, slot=slot, ctype="u32", added=True, optional=True)


def flag(key: str, bit: int, meaning: str) -> Field:
    """Return the field of a flag; the key is absent if the flag is not set."""
    return Field(key, Form.FLAG, meaning, bit=bit, added=True, optional=True)


CALL: Final = Field(
    "call",
    Form.CALL,
    "the system call, where it is another one than the event's name says",
    added=True,
    optional=True,
)
_FAULT: Final = flag("fault", Flag.FAULT, "true where a page of it could not be read")
_WITHHELD: Final = flag(
    "withheld",
    Flag.WITHHELD,
    "true where the text was left out: the time for `redact` was used up",
)


def exact(key: str) -> Field:
    """Return the field of a text's bytes in base64; absent if the text is valid UTF-8."""
    meaning = f"the exact bytes of `{key}` in base64, where they are no valid UTF-8"
    return Field(f"{key}_b64", Form.EXACT, meaning, added=True, optional=True)


def text(key: str, meaning: str) -> tuple[Field, ...]:
    """Return the fields of a path that is the record's data."""
    return (
        Field(key, Form.TEXT, f"{meaning}; invalid UTF-8 is U+FFFD"),
        _WITHHELD,
        flag("truncated", Flag.TRUNCATED, f"true where `{key}` was cut"),
        _FAULT,
        exact(key),
        CALL,
    )


def address(meaning: str) -> tuple[Field, ...]:
    """Return the fields of a socket address that is the record's data."""
    return Field("addr", Form.ADDRESS, meaning), _FAULT, exact("addr")


def content(what: str, length: str) -> tuple[Field, ...]:
    """Return the fields of content that is the record's data; `what` and `length` are meanings."""
    return (
        Field("buf", Form.CONTENT, f"{what}, its first `capture.bytes`; invalid UTF-8 is U+FFFD"),
        _WITHHELD,
        Field("len", Form.INT, length, slot="b", ctype="u64", unit="bytes", added=True),
        flag("truncated", Flag.TRUNCATED, "true where `buf` holds less than `len`"),
        _FAULT,
        exact("buf"),
        CALL,
    )
