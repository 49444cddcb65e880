"""The table of every event: the one place where an event is declared.

The C header of the kernel side, the encoder, the JSON Schema, the reference page and the event
names that users may ask for are all made from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from qmond.records import IMAGE, RECORD, Flag, Layout

__all__ = [
    "BY_NAME",
    "COMMON",
    "EVENTS",
    "NAMES",
    "NUMBER",
    "PUBLIC",
    "SCHEMA_VERSION",
    "Event",
    "Field",
    "Form",
]

SCHEMA_VERSION: Final = 1
# ---- events ----------------------------------------------------------------------------------


class Form(StrEnum):
    """How a field's JSON value comes from a record."""

    INT = "integer"
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


@dataclass(frozen=True, slots=True)
class Event:
    """One type of event. `other` names the slot that holds a second process' ID, for filters."""

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
    other: str = ""
    layout: Layout = RECORD


def _int(key: str, slot: str, ctype: str, meaning: str, unit: str = "") -> Field:
    return Field(key, Form.INT, meaning, slot=slot, ctype=ctype, unit=unit)


def _given(key: str, json: str, meaning: str, *, added: bool = True, unit: str = "") -> Field:
    return Field(key, Form.GIVEN, meaning, json=json, added=added, unit=unit)


def _flag(key: str, bit: int, meaning: str) -> Field:
    return Field(key, Form.FLAG, meaning, bit=bit, added=True, optional=True)


_PID = _int("pid", "pid", "u32", "process ID (tgid) as the host sees it")
_CALL = Field(
    "call",
    Form.CALL,
    "the system call that was made, where it is not the event's own",
    added=True,
    optional=True,
)
_FAULT = _flag("fault", Flag.FAULT, "true where a page of it could not be read")
_FD = _int("fd", "a", "s32", "file descriptor")


def _content(what: str, length: str) -> tuple[Field, ...]:
    return (
        Field("buf", Form.CONTENT, f"{what}, its first `capture.bytes`; invalid UTF-8 is U+FFFD"),
        Field("len", Form.INT, length, slot="b", ctype="u64", unit="bytes", added=True),
        _flag("truncated", Flag.TRUNCATED, "true where `buf` holds less than `len`"),
        _FAULT,
        Field(
            "buf_b64",
            Form.EXACT,
            "the exact captured bytes in base64, where they are no valid UTF-8",
            added=True,
            optional=True,
        ),
        _CALL,
    )


COMMON: Final = (
    _given("time", "string", "the same moment in UTC, RFC 3339 with microseconds"),
    _given("seq", "integer", "one more on every line of this boot"),
    _given("tid", "integer", "the thread"),
    _given("arch", "string", "the guest architecture, absent where the process runs native code"),
    _given("guest", "string", "path of the guest program that the process runs now"),
)
"""What stands at the end of every line with `fields: full`; the last three where they apply."""

EVENTS: Final = (
    Event(
        "START",
        "all probes are attached",
        "the daemon",
        (
            _given("message", "string", '"Dynamic QEMU-user monitor started"', added=False),
            _given("version", "string", "qmond's version"),
            _given("boot_id", "string", "this boot of the host"),
            _given("host", "string", "the host's name"),
            _given("kernel", "string", "the kernel's release"),
            _given("schema", "integer", "version of this event interface"),
        ),
        thread=False,
        process=False,
    ),
    Event(
        "END",
        "orderly stop, after the last event",
        "the daemon",
        (
            _given("message", "string", '"Dynamic QEMU-user monitor stopped"', added=False),
            _given("totals", "counters", "by event: seen, written, lost, suppressed"),
        ),
        thread=False,
        process=False,
    ),
    Event(
        "TRACK_OPENAT",
        "openat, openat2 or open of a monitored process",
        "sys_enter",
        (
            _PID,
            Field("bin", Form.BIN, "the interpreter's file name, whole"),
            Field("file", Form.TEXT, "the path as it was asked for"),
            _FAULT,
            _CALL,
        ),
    ),
    Event(
        "TRACK_FORK",
        "a monitored process made a child process; the child is monitored too",
        "task_newtask",
        (
            _int("parent", "pid", "u32", "the process that made the child"),
            _int("child", "a", "u32", "the new process"),
        ),
        state=True,
        other="a",
    ),
    Event(
        "EXEC",
        "execve or execveat of a monitored process",
        "sys_enter",
        (_PID, Field("filename", Form.TEXT, "the path as it was asked for"), _FAULT, _CALL),
    ),
    Event(
        "READ",
        "a read returned n > 0 bytes",
        "sys_exit",
        (_PID, _FD, *_content("what came in", "what the call read")),
    ),
    Event(
        "WRITE",
        "a write of n > 0 bytes was asked for",
        "sys_enter",
        (_PID, _FD, *_content("what was to go out", "what the call was asked to write")),
    ),
    Event(
        "READLINKAT",
        "readlinkat or readlink",
        "sys_enter",
        (_PID, Field("path", Form.TEXT, "the path as it was asked for"), _FAULT, _CALL),
    ),
    Event(
        "SOCKET",
        "socket",
        "sys_enter",
        (
            _PID,
            _int("domain", "a", "s32", "address family, AF_*"),
            _int("type", "b", "s32", "socket type, SOCK_*, with its flags"),
        ),
    ),
    Event(
        "CONNECT",
        "connect",
        "sys_enter",
        (_PID, Field("addr", Form.ADDRESS, "`192.0.2.7:80`, `unix:/run/x.sock`, …"), _FAULT),
    ),
    Event(
        "SENDTO",
        "sendto",
        "sys_enter",
        (_PID, _int("len", "a", "u64", "length of the message", "bytes")),
    ),
    Event(
        "RECVFROM",
        "recvfrom",
        "sys_enter",
        (_PID, _int("size", "a", "u64", "size of the buffer", "bytes")),
    ),
    Event(
        "DUP2",
        "dup2 or dup3",
        "sys_enter",
        (
            _PID,
            _int("oldfd", "a", "s32", "the descriptor"),
            _int("newfd", "b", "s32", "its copy"),
            _CALL,
        ),
    ),
    Event(
        "WAIT4_EXITED",
        "wait4 or waitid returned a child",
        "sys_exit",
        (
            _PID,
            _int("reaped_child", "a", "s32", "the child, as the caller's pid namespace counts"),
            _CALL,
        ),
    ),
    Event(
        "FREE_SUM",
        "once an interval, where the figure is not 0",
        "uprobes",
        (_given("meta", "count", "`count`: calls of free", added=False),),
        statistic=True,
        thread=False,
        process=False,
    ),
    Event(
        "MMAP_SUM",
        "once an interval, where the figure is not 0",
        "sys_enter",
        (_given("meta", "pages", "`count`: mmap calls; `max_pages`: the largest", added=False),),
        statistic=True,
        thread=False,
        process=False,
    ),
    Event(
        "ALLOC_SUM",
        "once an interval, where the figure is not 0",
        "uprobes",
        (_given("meta", "count", "`count`: calls of malloc, calloc and realloc", added=False),),
        statistic=True,
        thread=False,
        process=False,
    ),
    Event(
        "SCHED_SWITCH",
        "a context switch from or to a thread of a monitored process",
        "sched_switch",
        (
            _int("prev_pid", "a", "s32", "the thread that left the CPU"),
            _int("next_pid", "b", "s32", "the thread that got it"),
        ),
        thread=False,
        other="tid",
    ),
    Event(
        "SIGNAL_GENERATE",
        "any signal generated for a monitored process",
        "signal_generate",
        (_PID, _int("sig", "a", "s32", "signal number")),
    ),
    Event(
        "SETUID",
        "setuid, setreuid or setresuid",
        "sys_enter",
        (_PID, _int("uid", "a", "s32", "the (effective) user ID that was asked for"), _CALL),
    ),
    Event(
        "MPROTECT",
        "mprotect or pkey_mprotect",
        "sys_enter",
        (
            _PID,
            Field("read", Form.BIT, "PROT_READ", slot="a", bit=0),
            Field("write", Form.BIT, "PROT_WRITE", slot="a", bit=1),
            Field("exec", Form.BIT, "PROT_EXEC", slot="a", bit=2),
            _CALL,
        ),
    ),
    Event(
        "MADVICE",
        "madvise",
        "sys_enter",
        (_PID, Field("advice", Form.ADVICE, "by name; `MADV_OTHER` beyond", slot="a", ctype="s32")),
    ),
    Event(
        "TRACK_ADOPT",
        "a process came under watch",
        "sched_process_exec, procfs",
        (
            _PID,
            _given("ppid", "integer", "the parent process", added=False),
            _given("bin", "string", "file name of what it executes", added=False),
            _given("origin", "origin", "how it was found", added=False),
            _given("argv", "strings", "its command line", added=False),
            _given("guest", "string?", "path of the guest program", added=False),
            _given("arch", "string?", "the guest architecture", added=False),
            _given("uid", "integer", "its real user ID", added=False),
            _given("cgroup", "string?", "its cgroup (v2)", added=False),
            _given("start", "number", "start time since boot", added=False, unit="seconds"),
        ),
        thread=False,
        process=False,
        state=True,
        own=True,
        layout=IMAGE,
    ),
    Event(
        "EXIT",
        "a monitored process ended",
        "sched_process_exit",
        (
            _PID,
            _given("code", "integer?", "exit code, null where a signal ended it", added=False),
            _given("signal", "integer?", "the signal that ended it, or null", added=False),
        ),
        thread=False,
        state=True,
        own=True,
    ),
    Event(
        "LOST",
        "at most once a second: events that were seen and did not get through",
        "the daemon",
        (
            _given("stage", "stage", "where they were lost", added=False),
            _given("count", "integer", "how many", added=False),
            _given("by_event", "by_event", "how many of each type", added=False),
            _given("since", "number", "the `ts` from which on this counts", added=False),
        ),
        own=True,
        thread=False,
        process=False,
    ),
    Event(
        "DROPPED",
        "in one client's stream alone: lines that this client was too slow for",
        "the daemon",
        (_given("count", "integer", "how many lines", added=False),),
        own=True,
        thread=False,
        process=False,
    ),
    Event(
        "IMAGE",
        "a monitored process executes another program now",
        "sched_process_exec",
        (),
        state=True,
        own=True,
        internal=True,
        layout=IMAGE,
    ),
)

BY_NAME: Final = {event.name: event for event in EVENTS}
NUMBER: Final = {event.name: number for number, event in enumerate(EVENTS)}
NAMES: Final = tuple(event.name for event in EVENTS)
PUBLIC: Final = tuple(event for event in EVENTS if not event.internal)
