"""What strace saw of a run, in the words of the event interface."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["CALLS", "Truth", "read_strace", "whole_lines"]

_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(.*)$")
_ENDED = re.compile(r"^(\d+) +\+\+\+ (?:exited with (\d+)|killed by SIG(\w+).*) \+\+\+$")
_UNFINISHED = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
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


@dataclass
class Truth:
    """What a tree of processes did, from the moment on that its root executed an interpreter."""

    processes: set[int] = field(default_factory=set)
    ends: dict[int, tuple[int | None, str | None]] = field(default_factory=dict)
    """By process: exit code, or name of the signal without its SIG."""
    counts: Counter[str] = field(default_factory=Counter)


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
    return lines


def read_strace(trace: Path, first: str) -> Truth:
    """Read what `strace -f -s 0 --pidns-translation` wrote.

    `first` is the path with whose execve the watch begins.
    """
    truth = Truth()
    calls: list[re.Match[str]] = []
    for line in whole_lines(trace.read_text()):
        if match := _LINE.match(line):
            calls.append(match)
        elif match := _ENDED.match(line):
            truth.ends[int(match[1])] = (int(match[2]) if match[2] else None, match[3])
    forks = [match for match in calls if match[2] in _FORKS and match[4] not in ("-1", "?")]
    threads = {_child(match) for match in forks if "CLONE_THREAD" in match[3]}
    parents = {_child(match): int(match[1]) for match in forks}
    begins = [m for m in calls if m[3].startswith(f'"{first}"') and (m[2], m[4]) == ("execve", "0")]
    roots = {int(match[1]) for match in begins}

    def is_watched(tid: int) -> bool:
        while tid not in roots and tid in parents:
            tid = parents[tid]
        return tid in roots

    begun: set[int] = set()
    for match in calls:
        tid = int(match[1])
        if match in begins and tid not in begun:
            begun.add(tid)
        elif is_watched(tid) and (tid in begun or tid not in roots):
            _count(truth.counts, match)
    watched = {tid for tid in truth.ends if is_watched(tid)}
    truth.processes = watched - threads
    truth.ends = {pid: end for pid, end in truth.ends.items() if pid in truth.processes}
    return truth


def _child(match: re.Match[str]) -> int:
    """Return the ID that a fork gave, as strace itself sees it."""
    outside = _OUTSIDE.search(match[5])
    return int(outside[1] if outside else match[4])


def _count(counts: Counter[str], match: re.Match[str]) -> None:
    name, arguments, result = match[2], match[3], match[4]
    if name in _ALWAYS:
        counts[_ALWAYS[name]] += 1
    elif name in _READS:
        counts["READ"] += result not in ("?", "0") and int(result) > 0
    elif name in _WRITES:
        sizes = re.findall(r"iov_len=(\d+)", arguments) or re.findall(
            r'^\d+, (?:""|0x\w+|NULL)(?:\.\.\.)?, (\d+)', arguments
        )
        counts["WRITE"] += sum(map(int, sizes)) > 0
    elif name in _FORKS:
        counts["TRACK_FORK"] += "CLONE_THREAD" not in arguments and result not in ("?", "-1")
    elif name == "wait4":
        counts["WAIT4_EXITED"] += result not in ("?", "0") and int(result) > 0
    elif name == "waitid":
        counts["WAIT4_EXITED"] += result == "0" and "si_pid" in arguments
