"""The table of every event: the one place where an event is declared.

The C header of the kernel side, the encoder, the JSON Schema, the reference page and the event
names that users may ask for are all made from it.
"""

from __future__ import annotations

from typing import Final

from qmond.events.fields import (
    CALL,
    DAEMON,
    Event,
    Field,
    Form,
    address,
    content,
    exact,
    flag,
    given,
    integer,
    text,
)
from qmond.events.records import IMAGE, Flag

__all__ = [
    "BY_NAME",
    "COMMON",
    "EVENTS",
    "NAMES",
    "NUMBER",
    "PUBLIC",
    "SCHEMA_VERSION",
    "STREAM_ONLY",
]

SCHEMA_VERSION: Final = 1

_PID = integer("pid", "pid", "u32", "process ID (tgid) as the host sees it")
_UNREADABLE = flag("fault", Flag.FAULT, "true where not all of it could be added up")
_FD = integer("fd", "a", "s32", "file descriptor")


COMMON: Final = (
    given("time", "string", "the same moment in UTC, RFC 3339 with microseconds"),
    given("seq", "integer", "one more on every line of this boot"),
    given("tid", "integer", "the thread"),
    given("arch", "string", "the guest architecture, absent where the process runs native code"),
    given("guest", "string", "path of the guest program that the process runs now"),
    exact("guest"),
    given("redacted", "true", "true where content was left out, which this client may not see"),
)
"""What stands at the end of every line with `fields: full`; the last five where they apply."""

EVENTS: Final = (
    Event(
        "START",
        "all probes are attached",
        DAEMON,
        (
            given("message", "string", '"Dynamic QEMU-user monitor started"', added=False),
            given("version", "string", "qmond's version"),
            given("boot_id", "string", "this boot of the host"),
            given("host", "string", "the host's name"),
            given("kernel", "string", "the kernel's release"),
            given("schema", "integer", "version of this event interface"),
            given("resumed", "true", "true where it goes on after a daemon that ended abruptly"),
        ),
        thread=False,
        process=False,
    ),
    Event(
        "END",
        "orderly stop, after the last event",
        DAEMON,
        (
            given("message", "string", '"Dynamic QEMU-user monitor stopped"', added=False),
            given("totals", "counters", "by event: seen, written, lost, suppressed"),
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
            *text("file", "the path as it was asked for"),
        ),
    ),
    Event(
        "TRACK_FORK",
        "a monitored process made a child process; the child is monitored too",
        "task_newtask",
        (
            integer("parent", "pid", "u32", "the process that made the child"),
            integer("child", "a", "u32", "the new process"),
            Field(
                "start",
                Form.TICKS,
                "its start time since boot",
                slot="b",
                unit="seconds",
                added=True,
            ),
            CALL,
        ),
        state=True,
        other="a",
    ),
    Event(
        "EXEC",
        "execve or execveat of a monitored process",
        "sys_enter",
        (_PID, *text("filename", "the path as it was asked for")),
    ),
    Event(
        "READ",
        "a read returned n > 0 bytes",
        "sys_exit",
        (_PID, _FD, *content("what came in", "what the call read")),
    ),
    Event(
        "WRITE",
        "a write of n > 0 bytes was asked for",
        "sys_enter",
        (_PID, _FD, *content("what was to go out", "what the call was asked to write")),
    ),
    Event(
        "READLINKAT",
        "readlinkat or readlink",
        "sys_enter",
        (_PID, *text("path", "the path as it was asked for")),
    ),
    Event(
        "SOCKET",
        "socket",
        "sys_enter",
        (
            _PID,
            integer("domain", "a", "s32", "address family, AF_*"),
            integer("type", "b", "s32", "socket type, SOCK_*, with its flags"),
        ),
    ),
    Event(
        "CONNECT",
        "connect",
        "sys_enter",
        (
            _PID,
            *address("`192.0.2.7:80`, `unix:/run/x.sock`, …"),
        ),
    ),
    Event(
        "SENDTO",
        "sendto, sendmsg or sendmmsg",
        "sys_enter",
        (_PID, integer("len", "a", "u64", "what the messages hold", "bytes"), _UNREADABLE, CALL),
    ),
    Event(
        "RECVFROM",
        "recvfrom, recvmsg or recvmmsg",
        "sys_enter",
        (
            _PID,
            integer("size", "a", "u64", "what the buffers can take", "bytes"),
            _UNREADABLE,
            CALL,
        ),
    ),
    Event(
        "DUP2",
        "dup2 or dup3",
        "sys_enter",
        (
            _PID,
            integer("oldfd", "a", "s32", "the descriptor"),
            integer("newfd", "b", "s32", "its copy"),
            CALL,
        ),
    ),
    Event(
        "WAIT4_EXITED",
        "wait4 or waitid returned a child",
        "sys_exit",
        (
            _PID,
            integer("reaped_child", "a", "s32", "the child, as the caller's pid namespace counts"),
            CALL,
        ),
    ),
    Event(
        "FREE_SUM",
        "once an interval, where the figure is not 0",
        "uprobes",
        (given("meta", "calls", "`count`: calls of free", added=False),),
        statistic=True,
        thread=False,
        process=False,
    ),
    Event(
        "MMAP_SUM",
        "once an interval, where the figure is not 0",
        "sys_enter",
        (given("meta", "pages", "`count`: mmap calls; `max_pages`: the largest", added=False),),
        statistic=True,
        thread=False,
        process=False,
    ),
    Event(
        "ALLOC_SUM",
        "once an interval, where the figure is not 0",
        "uprobes",
        (given("meta", "calls", "`count`: calls of malloc, calloc and realloc", added=False),),
        statistic=True,
        thread=False,
        process=False,
    ),
    Event(
        "SCHED_SWITCH",
        "a context switch from or to a thread of a monitored process",
        "sched_switch",
        (
            integer("prev_pid", "a", "s32", "the thread that left the CPU"),
            integer("next_pid", "b", "s32", "the thread that got it"),
        ),
        thread=False,
        other="tid",
    ),
    Event(
        "SIGNAL_GENERATE",
        "any signal generated for a monitored process",
        "signal_generate",
        (_PID, integer("sig", "a", "s32", "signal number")),
    ),
    Event(
        "SETUID",
        "setuid, setreuid or setresuid",
        "sys_enter",
        (_PID, integer("uid", "a", "s32", "the (effective) user ID that was asked for"), CALL),
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
            CALL,
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
            given("ppid", "integer", "the parent process", added=False),
            given("bin", "string", "file name of what it executes", added=False),
            given("origin", "origin", "how it was found", added=False),
            given("argv", "strings", "its command line", added=False),
            given("guest", "string?", "path of the guest program", added=False),
            given("arch", "string?", "the guest architecture", added=False),
            given("uid", "integer", "its real user ID", added=False),
            given("cgroup", "string?", "its cgroup (v2)", added=False),
            given("start", "number", "start time since boot", added=False, unit="seconds"),
            given("launch", "launch", "how the program that it runs was started"),
            given("container", "string?", "the container's ID, where the cgroup tells one"),
            given("parents", "parents", "its parent, that one's parent, and so on"),
            given("allocations", "allocations", "whether malloc and free are counted, or why not"),
            given("argv_b64", "strings", "each word in base64, where any is no valid UTF-8"),
            exact("guest"),
            flag("truncated", Flag.TRUNCATED, "true where the command line was longer"),
            flag("withheld", Flag.WITHHELD, "true where the command line was left out"),
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
            given("code", "integer?", "exit code, null where a signal ended it", added=False),
            given("signal", "integer?", "the signal that ended it, or null", added=False),
        ),
        thread=False,
        state=True,
        own=True,
    ),
    Event(
        "IO_URING",
        "a monitored process set up io_uring: what it does through it is not seen as system calls",
        "sys_exit, procfs",
        (
            _PID,
            integer("fd", "b", "s32", "descriptor of the ring"),
            Field(
                "entries",
                Form.INT,
                "size of the ring that was asked for",
                slot="a",
                ctype="u32",
                optional=True,
            ),
        ),
        own=True,
    ),
    Event(
        "CLOCK",
        "the wall clock was stepped, or the host woke from sleep",
        DAEMON,
        (
            given(
                "offset",
                "number",
                "CLOCK_REALTIME less CLOCK_MONOTONIC from here on",
                added=False,
                unit="seconds",
            ),
        ),
        own=True,
        thread=False,
        process=False,
    ),
    Event(
        "LOST",
        "at most once a second: events that were seen and did not get through",
        DAEMON,
        (
            given("stage", "stage", "where they were lost", added=False),
            given("count", "integer", "how many", added=False),
            given("by_event", "by_event", "how many of each type", added=False),
            given("since", "number", "the `ts` from which on this counts", added=False),
        ),
        own=True,
        thread=False,
        process=False,
    ),
    Event(
        "SUPPRESSED",
        "at most once a second and process: events held back by a configured limit",
        DAEMON,
        (
            given("count", "integer", "how many", added=False),
            given("by_event", "by_event", "how many of each type", added=False),
            _PID,
        ),
        own=True,
        thread=False,
        process=False,
    ),
    Event(
        "DROPPED",
        "in one client's stream alone: lines that this client was too slow for",
        DAEMON,
        (given("count", "integer", "how many lines", added=False),),
        own=True,
        thread=False,
        process=False,
    ),
    Event(
        "GAP",
        "in one client's stream alone: lines of the past that it asked for, and that are no more",
        DAEMON,
        (
            given("from_seq", "integer", "the first of them"),
            given("to_seq", "integer", "the last of them"),
        ),
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
    Event(
        "OVER_BUDGET",
        "a process allocates more often than it may be counted for",
        "uprobes",
        (),
        state=True,
        own=True,
        internal=True,
    ),
)

BY_NAME: Final = {event.name: event for event in EVENTS}
NUMBER: Final = {event.name: number for number, event in enumerate(EVENTS)}
NAMES: Final = tuple(event.name for event in EVENTS)
PUBLIC: Final = tuple(event for event in EVENTS if not event.internal)
STREAM_ONLY: Final = frozenset({"DROPPED", "GAP"})
"""What tells of one client's own stream: it is in no log, and every client is told."""
