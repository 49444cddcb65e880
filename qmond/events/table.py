"""The table of every event: the one place where an event is declared.

The C header of the kernel side, the encoder, the JSON Schema, the reference page and the event
names that users may ask for are all made from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from qmond.events.fields import (
    CALL,
    DAEMON,
    Event,
    Field,
    Form,
    Group,
    address,
    content,
    exact,
    flag,
    given,
    integer,
    other,
    text,
)
from qmond.events.records import IMAGE, Flag

__all__ = [
    "BY_NAME",
    "COMMON",
    "EVENTS",
    "FIELDS",
    "HEAD",
    "NAMES",
    "NUMBER",
    "PUBLIC",
    "SCHEMA_VERSION",
    "STREAM_ONLY",
]

SCHEMA_VERSION: Final = 1

_PID = integer("pid", "pid", "u32", "process ID (tgid) as the host sees it")
_UNREADABLE = flag("fault", Flag.FAULT, "true where not all of it could be added up")
_GUEST_PATH: Final = (
    "the absolute path, where `guest` is relative: as the process saw it when it executed it; "
    "absent where it is not known"
)
_FD = integer("fd", "a", "s32", "file descriptor")


HEAD: Final = (
    given("ts", "number", "CLOCK_MONOTONIC in seconds at the moment of the event", added=False),
    given("event", "string", "the type of the line", added=False),
    given("evt", "string", "the same, of a statistic", added=False),
)
"""What stands at the beginning of every line: `ts`, and one of the others."""
COMMON: Final = (
    given("time", "string", "the same moment in UTC, RFC 3339 with microseconds"),
    given("seq", "integer", "one more on every line of this boot"),
    given("tid", "integer", "the thread"),
    given("arch", "string", "the guest architecture, absent where the process runs native code"),
    given(
        "guest",
        "string",
        "path of the program that the process runs now; it is native where `arch` is absent",
    ),
    exact("guest"),
    given("guest_path", "string", _GUEST_PATH),
    exact("guest_path"),
    given("redacted", "true", "true where content was left out, which this client may not see"),
)
"""What stands at the end of every line with `fields: full`; from `arch` on where they apply."""

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
        rare=True,
        group=Group.DAEMON,
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
        rare=True,
        group=Group.DAEMON,
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
        group=Group.FILE,
        strace="(AT_FDCWD?, {file}, ?) = ?",
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
        rare=True,
        group=Group.PROCESS,
        strace="() = {child}",
    ),
    Event(
        "EXEC",
        "execve or execveat of a monitored process",
        "sys_enter",
        (_PID, *text("filename", "the path as it was asked for")),
        rare=True,
        group=Group.PROCESS,
        strace="({filename}, ?) = ?",
    ),
    Event(
        "READ",
        "a read returned n > 0 bytes",
        "sys_exit",
        (_PID, _FD, *content("what came in", "what the call read")),
        group=Group.FILE,
        strace="({fd}, {buf}, ?) = {len}",
    ),
    Event(
        "WRITE",
        "a write of n > 0 bytes was asked for",
        "sys_enter",
        (_PID, _FD, *content("what was to go out", "what the call was asked to write")),
        group=Group.FILE,
        strace="({fd}, {buf}, {len}) = ?",
    ),
    Event(
        "READLINKAT",
        "readlinkat or readlink",
        "sys_enter",
        (_PID, *text("path", "the path as it was asked for")),
        group=Group.FILE,
        strace="(AT_FDCWD?, {path}, ?) = ?",
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
        group=Group.NET,
        strace="({domain:family}, {type:socket}, ?) = ?",
    ),
    Event(
        "CONNECT",
        "connect",
        "sys_enter",
        (
            _PID,
            *address("`192.0.2.7:80`, `unix:/run/x.sock`, …"),
        ),
        rare=True,
        group=Group.NET,
        strace="(?, {addr}, ?) = ?",
    ),
    Event(
        "SENDTO",
        "sendto, sendmsg or sendmmsg",
        "sys_enter",
        (_PID, integer("len", "a", "u64", "what the messages hold", "bytes"), _UNREADABLE, CALL),
        group=Group.NET,
        strace="(?, ?, {len}) = ?",
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
        group=Group.NET,
        strace="(?, ?, {size}) = ?",
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
        group=Group.FILE,
        strace="({oldfd}, {newfd}) = ?",
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
        group=Group.PROCESS,
        strace="(?) = {reaped_child}",
    ),
    Event(
        "FREE_SUM",
        "once an interval, where the figure is not 0",
        "uprobes",
        (
            given(
                "meta",
                "calls",
                "`count`: calls of free; `by_pid`: by process; `partial`: those not always counted",
                added=False,
            ),
        ),
        statistic=True,
        thread=False,
        process=False,
        group=Group.MEMORY,
    ),
    Event(
        "MMAP_SUM",
        "once an interval, where the figure is not 0",
        "sys_enter",
        (
            given(
                "meta",
                "pages",
                "`count`: mmap calls; `max_pages`: the largest; `by_pid`: calls by process",
                added=False,
            ),
        ),
        statistic=True,
        thread=False,
        process=False,
        group=Group.MEMORY,
    ),
    Event(
        "ALLOC_SUM",
        "once an interval, where the figure is not 0",
        "uprobes",
        (
            given(
                "meta",
                "calls",
                "`count`: calls of malloc, calloc and realloc; `by_pid`, `partial`: as in FREE_SUM",
                added=False,
            ),
        ),
        statistic=True,
        thread=False,
        process=False,
        group=Group.MEMORY,
    ),
    Event(
        "SCHED_SWITCH",
        "a context switch from or to a thread of a monitored process",
        "sched_switch",
        (
            integer("prev_pid", "a", "s32", "the thread that left the CPU"),
            integer("next_pid", "b", "s32", "the thread that got it"),
            replace(
                _PID,
                meaning="the monitored process that left the CPU, otherwise the one that got it",
                added=True,
            ),
            other(
                "next_tgid",
                "tid",
                "the process that got the CPU, where both are monitored and it is not `pid`",
            ),
        ),
        thread=False,
        other="tid",
        group=Group.SCHED,
        strace="--- switch from {prev_pid} to {next_pid} ---",
    ),
    Event(
        "SIGNAL_GENERATE",
        "any signal generated for a monitored process",
        "signal_generate",
        (_PID, integer("sig", "a", "s32", "signal number")),
        group=Group.SIGNAL,
        strace="--- {sig:signal} ---",
    ),
    Event(
        "SETUID",
        "setuid, setreuid or setresuid",
        "sys_enter",
        (_PID, integer("uid", "a", "s32", "the (effective) user ID that was asked for"), CALL),
        rare=True,
        group=Group.IDENTITY,
        strace="({uid}) = ?",
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
        group=Group.MEMORY,
        strace="(?, ?, {read|write|exec:PROT_NONE}) = ?",
    ),
    Event(
        "MADVICE",
        "madvise",
        "sys_enter",
        (_PID, Field("advice", Form.ADVICE, "by name; `MADV_OTHER` beyond", slot="a", ctype="s32")),
        group=Group.MEMORY,
        strace="(?, ?, {advice}) = ?",
    ),
    Event(
        "TRACK_ADOPT",
        "a process came under watch",
        "sched_process_exec, procfs",
        (
            _PID,
            given("ppid", "integer", "the parent process", added=False),
            given("bin", "string", "file name of what it executes", added=False),
            given(
                "origin",
                "origin",
                "how it was found: `exec`, or `procfs` if it ran before the daemon",
                added=False,
            ),
            given("argv", "strings", "its command line", added=False),
            given("guest", "string?", "path of the program, as above", added=False),
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
            given("guest_path", "string", _GUEST_PATH),
            exact("guest_path"),
            given(
                "cwd",
                "string",
                "the directory in which it executed its program; absent where it is not known",
            ),
            exact("cwd"),
            flag("truncated", Flag.TRUNCATED, "true where the command line was longer"),
            flag("withheld", Flag.WITHHELD, "true where the command line was left out"),
        ),
        thread=False,
        process=False,
        state=True,
        own=True,
        layout=IMAGE,
        rare=True,
        group=Group.PROCESS,
        strace="+++ watched from here on ({origin}): [{argv:words}] +++",
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
        rare=True,
        group=Group.PROCESS,
        strace="+++ {signal:ending} +++",
    ),
    Event(
        "IO_URING",
        "a monitored process set up io_uring: I/O through it is not seen",
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
        rare=True,
        group=Group.FILE,
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
        rare=True,
        group=Group.DAEMON,
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
        rare=True,
        group=Group.LOSS,
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
        group=Group.LOSS,
    ),
    Event(
        "DROPPED",
        "in one client's stream alone: lines that this client was too slow for",
        DAEMON,
        (given("count", "integer", "how many lines", added=False),),
        own=True,
        thread=False,
        process=False,
        group=Group.LOSS,
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
        group=Group.LOSS,
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
    Event(
        "BIND",
        "bind: a socket asked for a local address",
        "sys_enter",
        (_PID, _FD, *address("`192.0.2.7:80`, `unix:/run/x.sock`, …")),
        own=True,
        group=Group.NET,
        strace="({fd}, {addr}, ?) = ?",
    ),
)

BY_NAME: Final = {event.name: event for event in EVENTS}
NUMBER: Final = {event.name: number for number, event in enumerate(EVENTS)}
NAMES: Final = tuple(event.name for event in EVENTS)
PUBLIC: Final = tuple(event for event in EVENTS if not event.internal)
FIELDS: Final = (*HEAD, *(field for event in PUBLIC for field in event.fields), *COMMON)
"""Every key that a line can have, as often as events have it."""
STREAM_ONLY: Final = frozenset({"DROPPED", "GAP"})
"""Events about one client's own stream: they are in no log, and cannot be filtered out."""
