"""Which system calls the kernel side follows, by host architecture, and which of its programs do.

Numbers: x86-64 from Linux' arch/x86/entry/syscalls/syscall_64.tbl, aarch64 from
include/uapi/asm-generic/unistd.h; 0xffff where an architecture does not have the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from qmond.events.records import Layout, layout_format
from qmond.events.table import NUMBER

__all__ = ["CALL", "CALLS", "HANDLERS", "HOSTS", "LIMIT", "NAMES", "Call", "pack"]

HOSTS: Final = ("x86_64", "aarch64")
LIMIT: Final = 512
"""System call numbers from here on are never of interest: the size of the kernel side's table."""

HANDLERS: Final = (
    "none",
    "path",  # the data: the path that an argument points to
    "write",  # the data: a buffer, the second argument, of as many bytes as the third; a: the first
    "integers",  # a and b: two arguments
    "address",  # the data: a socket address, and the argument that has its size; a: the first one
    "mmap",
    "read",  # as write, at the exit and with as many bytes as were read
    "wait",
    "waitid",
    "late",  # at the exit: what is done at the entry, once more if a page was absent then
    "writev",  # as write, with a vector
    "readv",  # as read, with a vector
    "messages",  # a: the sum of the sizes of messages; an argument may say how many there are
    "result",  # at the exit, where it did not fail: the first argument and the result
    "fork",
)
"""The kernel side's programs, one a shape, that a call is handed to at its entry or its exit.

What they put into a record: its data, its slots `a` and `b`. A call's row says which arguments.
"""

CALL: Final[Layout] = (
    ("event", "u16"),
    ("call", "u16"),
    ("enter", "u16"),
    ("exit", "u16"),
    ("arg_a", "u16"),
    ("arg_b", "u16"),
)
_FORMAT = layout_format(CALL)
_NONE = 0xFFFF


@dataclass(frozen=True, slots=True)
class Call:
    """A system call: the event it makes, and the positions of the arguments that matter."""

    name: str
    event: str
    x86_64: int
    aarch64: int
    enter: str
    exit: str
    args: tuple[int, ...] = ()
    own: bool = False  # the call that its event is named after


# fmt: off
CALLS: Final = (
    #    name             event           x86-64 aarch64  at entry   at exit    arguments
    Call("openat",        "TRACK_OPENAT", 257,    56,    "path",     "late",   (1,), own=True),
    Call("openat2",       "TRACK_OPENAT", 437,    437,   "path",     "late",   (1,)),
    Call("open",          "TRACK_OPENAT", 2,      _NONE, "path",     "late",   (0,)),
    Call("execve",        "EXEC",         59,     221,   "path",     "late",   (0,), own=True),
    Call("execveat",      "EXEC",         322,    281,   "path",     "late",   (1,)),
    Call("readlinkat",    "READLINKAT",   267,    78,    "path",     "late",   (1,), own=True),
    Call("readlink",      "READLINKAT",   89,     _NONE, "path",     "late",   (0,)),
    Call("read",          "READ",         0,      63,    "none",     "read",   own=True),
    Call("pread64",       "READ",         17,     67,    "none",     "read"),
    Call("readv",         "READ",         19,     65,    "none",     "readv"),
    Call("preadv",        "READ",         295,    69,    "none",     "readv"),
    Call("preadv2",       "READ",         327,    286,   "none",     "readv"),
    Call("write",         "WRITE",        1,      64,    "write",    "late",   own=True),
    Call("pwrite64",      "WRITE",        18,     68,    "write",    "late"),
    Call("writev",        "WRITE",        20,     66,    "writev",   "late"),
    Call("pwritev",       "WRITE",        296,    70,    "writev",   "late"),
    Call("pwritev2",      "WRITE",        328,    287,   "writev",   "late"),
    Call("socket",        "SOCKET",       41,     198,   "integers", "none",   (0, 1), own=True),
    Call("connect",       "CONNECT",      42,     203,   "address",  "late",   (1, 2), own=True),
    Call("bind",          "BIND",         49,     200,   "address",  "late",   (1, 2), own=True),
    Call("sendto",        "SENDTO",       44,     206,   "integers", "none",   (2,), own=True),
    Call("sendmsg",       "SENDTO",       46,     211,   "messages", "late"),
    Call("sendmmsg",      "SENDTO",       307,    269,   "messages", "late",   (2,)),
    Call("recvfrom",      "RECVFROM",     45,     207,   "integers", "none",   (2,), own=True),
    Call("recvmsg",       "RECVFROM",     47,     212,   "messages", "late"),
    Call("recvmmsg",      "RECVFROM",     299,    243,   "messages", "late",   (2,)),
    Call("dup2",          "DUP2",         33,     _NONE, "integers", "none",   (0, 1), own=True),
    Call("dup3",          "DUP2",         292,    24,    "integers", "none",   (0, 1)),
    Call("wait4",         "WAIT4_EXITED", 61,     260,   "none",     "wait",   own=True),
    Call("waitid",        "WAIT4_EXITED", 247,    95,    "none",     "waitid"),
    Call("setuid",        "SETUID",       105,    146,   "integers", "none",   (0,), own=True),
    Call("setreuid",      "SETUID",       113,    145,   "integers", "none",   (1,)),
    Call("setresuid",     "SETUID",       117,    147,   "integers", "none",   (1,)),
    Call("fork",          "TRACK_FORK",   57,     _NONE, "fork",     "none",   own=True),
    Call("vfork",         "TRACK_FORK",   58,     _NONE, "fork",     "none"),
    Call("clone",         "TRACK_FORK",   56,     220,   "fork",     "none"),
    Call("clone3",        "TRACK_FORK",   435,    435,   "fork",     "none"),
    Call("io_uring_setup", "IO_URING",    425,    425,   "none",     "result", own=True),
    Call("mmap",          "MMAP_SUM",     9,      222,   "mmap",     "none",   own=True),
    Call("mprotect",      "MPROTECT",     10,     226,   "integers", "none",   (2,), own=True),
    Call("pkey_mprotect", "MPROTECT",     329,    288,   "integers", "none",   (2,)),
    Call("madvise",       "MADVICE",      28,     233,   "integers", "none",   (2,), own=True),
)
# fmt: on

NAMES: Final = ("", *(call.name for call in CALLS))
"""The name behind a record's `call`."""


def pack(host: str) -> dict[int, bytes]:
    """Return the kernel side's table for a host architecture: call number → struct qmon_call."""
    table = {}
    for index, call in enumerate(CALLS, start=1):
        number = {"x86_64": call.x86_64, "aarch64": call.aarch64}[host]
        if number == _NONE:
            continue
        arg_a, arg_b = (*call.args, _NONE, _NONE)[:2]
        table[number] = _FORMAT.pack(
            NUMBER[call.event],
            0 if call.own else index,
            HANDLERS.index(call.enter),
            HANDLERS.index(call.exit),
            arg_a,
            arg_b,
        )
    return table
