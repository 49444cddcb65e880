"""What an event is made of: the words that the table of events is written in."""

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
    "text",
]


class Form(StrEnum):
    """How a field's JSON value comes from a record."""

    INT = "integer"
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
    DAEMON = "daemon"
    LOSS = "loss"


@dataclass(frozen=True, slots=True)
class Field:
    """One key of an event's JSON object.

    `slot` names the record's field that the value is in and `ctype` what it is in C;
    `added` marks what the original interface does not have.
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
"""The source of an event that no record of the kernel side makes."""


@dataclass(frozen=True, slots=True)
class Event:
    """One type of event.

    `other` names the slot that holds a second process' ID, for filters. `strace` is how a line is
    told in strace's manner, with keys in braces; ctl/show/strace.py says what may stand there.
    """

    name: str
    when: str
    source: str
    fields: tuple[Field, ...]
    thread: bool = True  # a thread's event: `tid` is added
    process: bool = True  # a process' event: `arch` and `guest` are added
    state: bool = False  # the process table follows it: sent whether it is wanted or not
    own: bool = False  # qmond's own: the original interface does not have it
    internal: bool = False  # for the process table alone: no line is made of it
    statistic: bool = False  # carries its name as `evt`
    rare: bool = False  # its lines are kept a second time, by user: log/lives.py
    other: str = ""
    group: Group | None = None
    strace: str = ""
    layout: Layout = RECORD

    @property
    def is_limitable(self) -> bool:
        """Whether `limits` may hold it back: the kernel side makes it, and no table needs it."""
        return self.is_recorded and not self.state

    @property
    def is_recorded(self) -> bool:
        """Whether a record of the kernel side tells of each."""
        return not (self.source == DAEMON or self.statistic)


def integer(key: str, slot: str, ctype: str, meaning: str, unit: str = "") -> Field:
    """Return a number that stands in a slot of the record."""
    return Field(key, Form.INT, meaning, slot=slot, ctype=ctype, unit=unit)


def given(key: str, json: str, meaning: str, *, added: bool = True, unit: str = "") -> Field:
    """Return a value that the daemon gives; `json` names its shape in schema.py."""
    return Field(key, Form.GIVEN, meaning, json=json, added=added, unit=unit)


def flag(key: str, bit: int, meaning: str) -> Field:
    """Return a key that is there only where a flag of the record is set."""
    return Field(key, Form.FLAG, meaning, bit=bit, added=True, optional=True)


CALL: Final = Field(
    "call",
    Form.CALL,
    "the system call that was made, where it is not the event's own",
    added=True,
    optional=True,
)
_FAULT: Final = flag("fault", Flag.FAULT, "true where a page of it could not be read")
_WITHHELD: Final = flag(
    "withheld",
    Flag.WITHHELD,
    "true where the text was left out: it had more for `redact` to mask than there is time for",
)


def exact(key: str) -> Field:
    """Return the key that tells a text's bytes, where they are no valid UTF-8."""
    meaning = f"the exact bytes of `{key}` in base64, where they are no valid UTF-8"
    return Field(f"{key}_b64", Form.EXACT, meaning, added=True, optional=True)


def text(key: str, meaning: str) -> tuple[Field, ...]:
    """Return the keys of a path that a guest chose, and that is all of a record's data."""
    return (
        Field(key, Form.TEXT, f"{meaning}; invalid UTF-8 is U+FFFD"),
        _WITHHELD,
        flag("truncated", Flag.TRUNCATED, f"true where `{key}` was cut"),
        _FAULT,
        exact(key),
        CALL,
    )


def address(meaning: str) -> tuple[Field, ...]:
    """Return the keys of a socket address, which is all of a record's data."""
    return Field("addr", Form.ADDRESS, meaning), _FAULT, exact("addr")


def content(what: str, length: str) -> tuple[Field, ...]:
    """Return the keys of captured content; `what` it is, and what its `length` says."""
    return (
        Field("buf", Form.CONTENT, f"{what}, its first `capture.bytes`; invalid UTF-8 is U+FFFD"),
        _WITHHELD,
        Field("len", Form.INT, length, slot="b", ctype="u64", unit="bytes", added=True),
        flag("truncated", Flag.TRUNCATED, "true where `buf` holds less than `len`"),
        _FAULT,
        exact("buf"),
        CALL,
    )
