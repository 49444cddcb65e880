"""What strace saw of a run, in the words of the event interface.

A call is (event, thread, detail): a path, the length of what was read or written, or None.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["CALLS", "EVENTS", "Call", "Truth", "call_of", "read_strace", "whole_lines"]

_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(.*)$")
_ENDED = re.compile(r"^(\d+) +\+\+\+ (?:exited with (\d+)|killed by (SIG\w+).*) \+\+\+$")
_UNFINISHED = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_SIGNAL = re.compile(r"^(\d+) +--- (SIG\w+) \{.*\} ---$")
_PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')
_OUTSIDE = re.compile(r"/\* (\d+) in strace's PID NS \*/")

_ALWAYS = {
    "openat": "TRACK_OPENAT",
    "openat2": "TRACK_OPENAT",
    "open": "TRACK_OPENAT",
    "execve": "EXEC",
    "execveat": "EXEC",
    "readlink": "READLINKAT",
    "readlinkat": "READLINKAT",
    "socket": "SOCKET",
    "connect": "CONNECT",
    "sendto": "SENDTO",
    "sendmsg": "SENDTO",
    "sendmmsg": "SENDTO",
    "recvfrom": "RECVFROM",
    "recvmsg": "RECVFROM",
    "recvmmsg": "RECVFROM",
    "dup2": "DUP2",
    "dup3": "DUP2",
    "setuid": "SETUID",
    "setreuid": "SETUID",
    "setresuid": "SETUID",
    "mprotect": "MPROTECT",
    "pkey_mprotect": "MPROTECT",
    "madvise": "MADVICE",
}
_READS = ("read", "pread64", "readv", "preadv", "preadv2")
_WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2")
_FORKS = ("fork", "vfork", "clone", "clone3")
CALLS = ",".join([*_ALWAYS, *_READS, *_WRITES, *_FORKS, "wait4", "waitid"])
"""What strace is to trace."""
EVENTS = frozenset(_ALWAYS.values()) | {"READ", "WRITE", "TRACK_FORK", "WAIT4_EXITED"}
"""What calls become."""


Call = tuple[str, int, object]

_DETAIL = {
    "TRACK_OPENAT": "file",
    "EXEC": "filename",
    "READLINKAT": "path",
    "READ": "len",
    "WRITE": "len",
}
"""Which key of an event is a call's detail."""


def call_of(event: dict[str, Any]) -> Call:
    """Return an event of qmond as a call."""
    name = event["event"]
    return name, event["tid"], event[_DETAIL[name]] if name in _DETAIL else None


@dataclass
class Truth:
    """What a tree of processes did, from the moment on that its root executed an interpreter."""

    processes: set[int] = field(default_factory=set)
    ends: dict[int, tuple[int | None, str | None]] = field(default_factory=dict)
    """By process: exit code, or the signal's name."""
    calls: Counter[Call] = field(default_factory=Counter)
    signals: Counter[tuple[int, str]] = field(default_factory=Counter)
    """By process and name; one that came while the same was pending is not in it."""
    borrowers: int = 0
    """How many children ran in their parent's memory, as vfork makes them."""


def whole_lines(text: str) -> list[str]:
    """Return strace's lines with the calls that another one interrupted put together again."""
    lines, waiting = [], {}
    for line in text.splitlines():
        if match := _UNFINISHED.match(line):
            waiting[match[1]] = line.removesuffix(" <unfinished ...>")
        elif match := _RESUMED.match(line):
            lines.append(waiting.pop(match[1]) + match[2])
        else:
            lines.append(line)
    return lines + [f"{line}) = ?" for line in waiting.values()]  # those that never returned


def read_strace(trace: Path, first: str) -> Truth:
    """Read what `strace -f -s 0 --pidns-translation` wrote.

    `first` is the path with whose execve the watch begins.
    """
    lines = whole_lines(trace.read_text())
    truth = Truth()
    calls = [match for line in lines if (match := _LINE.match(line))]
    signals = [(int(match[1]), match[2]) for line in lines if (match := _SIGNAL.match(line))]
    ends = [match for line in lines if (match := _ENDED.match(line))]
    forks = [match for match in calls if match[2] in _FORKS and match[4] not in ("-1", "?")]
    threads = {_child(match) for match in forks if "CLONE_THREAD" in match[3]}
    parents = {_child(match): int(match[1]) for match in forks}
    begins = [m for m in calls if m[3].startswith(f'"{first}"') and (m[2], m[4]) == ("execve", "0")]
    roots = {int(match[1]) for match in begins}

    def is_watched(tid: int) -> bool:
        return not roots.isdisjoint(_with_parents(tid, parents))

    begun: set[int] = set()
    for match in calls:
        tid = int(match[1])
        if match in begins and tid not in begun:
            begun.add(tid)
        elif is_watched(tid) and (tid in begun or tid not in roots):
            truth.calls.update(_calls(match))
            truth.borrowers += match[2] in _FORKS and _borrows(match)
    for end in ends:
        pid = int(end[1])
        if is_watched(pid) and pid not in threads:
            truth.ends[pid] = (int(end[2]) if end[2] else None, end[3])
    truth.processes = set(truth.ends)
    for tid, name in signals:
        pid = next(pid for pid in _with_parents(tid, parents) if pid not in threads)
        if pid in truth.processes:
            truth.signals[pid, name] += 1
    return truth


def _with_parents(tid: int, parents: dict[int, int]) -> Iterator[int]:
    """Yield a thread, who made it, who made that, and so on."""
    yield tid
    while tid in parents:
        tid = parents[tid]
        yield tid


def _child(match: re.Match[str]) -> int:
    """Return the ID that a fork gave, as strace itself sees it."""
    outside = _OUTSIDE.search(match[5])
    return int(outside[1] if outside else match[4])


def _borrows(match: re.Match[str]) -> bool:
    return match[2] == "vfork" or ("CLONE_VM" in match[3] and "CLONE_THREAD" not in match[3])


def _calls(match: re.Match[str]) -> Iterator[Call]:
    """Yield the call of a line, if it is one that the event interface tells of."""
    tid, name, arguments = int(match[1]), match[2], match[3]
    result = -1 if match[4] == "?" else int(match[4])
    if name in _ALWAYS:
        event = _ALWAYS[name]
        path = _PATH.search(arguments) if event in _DETAIL else None
        yield event, tid, path[1] if path else None
    elif name in _READS:
        if result > 0:
            yield "READ", tid, result
    elif name in _WRITES:
        sizes = re.findall(r"iov_len=(\d+)", arguments) or re.findall(
            r'^\d+, (?:""|0x\w+|NULL)(?:\.\.\.)?, (\d+)', arguments
        )
        if length := sum(map(int, sizes)):
            yield "WRITE", tid, length
    elif name in _FORKS:
        if "CLONE_THREAD" not in arguments and result > 0:
            yield "TRACK_FORK", tid, None
    elif result > 0 if name == "wait4" else result == 0 and "si_pid" in arguments:
        yield "WAIT4_EXITED", tid, None
