"""Read /proc: parsers that take bytes, and readers that take a process ID.

proc(5) has the formats. `root` is where procfs is mounted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from struct import iter_unpack
from typing import Final

from qmond.events.records import ARGV_MAX

__all__ = [
    "PROC",
    "Stat",
    "alive",
    "parse_auxv",
    "parse_cgroup",
    "parse_nspid",
    "parse_stat",
    "parse_uid",
    "pids",
    "read_cgroup",
    "read_cmdline",
    "read_exe",
    "read_execfn",
    "read_io_urings",
    "read_own_pid",
    "read_stat",
    "read_uid",
]

PROC: Final = Path("/proc")

_AT_EXECFN: Final = 31
_DEAD: Final = "Z"
_PATH_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Stat:
    """Some fields of /proc/PID/stat; `start` is in clock ticks since boot."""

    comm: bytes
    state: str
    ppid: int
    start: int


def parse_stat(data: bytes) -> Stat:
    """Parse /proc/PID/stat; comm may have spaces and parentheses. Raises ValueError."""
    comm = data[data.index(b"(") + 1 : data.rindex(b")")]
    rest = data[data.rindex(b")") + 1 :].split()
    return Stat(
        comm=comm,
        state=rest[0].decode(),
        ppid=int(rest[1]),
        start=int(rest[19]),
    )


def parse_uid(data: bytes) -> int:
    """Return the real user ID of /proc/PID/status. Raises ValueError."""
    for line in data.splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[1])
    raise ValueError("no Uid line")


def parse_nspid(data: bytes) -> list[int]:
    """Return the IDs in /proc/PID/status, one per pid namespace, that of the procfs first.

    Raises ValueError.
    """
    for line in data.splitlines():
        if line.startswith(b"NSpid:"):
            return [int(word) for word in line.split()[1:]]
    raise ValueError("no NSpid line")


def parse_cgroup(data: bytes) -> bytes | None:
    """Return the cgroup v2 path in /proc/PID/cgroup, or None without that hierarchy."""
    for line in data.split(b"\n"):
        if line.startswith(b"0::"):
            return line.removeprefix(b"0::")
    return None


def parse_auxv(data: bytes) -> dict[int, int]:
    """Parse the auxiliary vector of a 64-bit process: values by AT_* number, see getauxval(3)."""
    return dict(iter_unpack("=QQ", data[: len(data) // 16 * 16]))


def pids(root: Path = PROC) -> Iterator[int]:
    """Yield the IDs of all processes."""
    with os.scandir(root) as entries:
        yield from (int(entry.name) for entry in entries if entry.name.isdecimal())


def read_stat(pid: int, root: Path = PROC) -> Stat:
    """Read /proc/PID/stat. Raises OSError if the process has ended."""
    return parse_stat((root / str(pid) / "stat").read_bytes())


def alive(pid: int, root: Path = PROC) -> tuple[int, Path]:
    """Return an ID and a root by which a process can be read, even if its main thread has ended.

    Raises OSError if the process has ended.
    """
    if read_stat(pid, root).state == _DEAD:
        threads = root / str(pid) / "task"
        for thread in pids(threads):
            if read_stat(thread, threads).state != _DEAD:
                return thread, threads
    return pid, root


def read_cmdline(pid: int, root: Path = PROC) -> bytes:
    """Read /proc/PID/cmdline, up to the size that the kernel side records.

    Raises OSError if the process has ended.
    """
    with (root / str(pid) / "cmdline").open("rb") as file:
        return file.read(ARGV_MAX)


def read_uid(pid: int, root: Path = PROC) -> int:
    """Read the real user ID. Raises OSError if the process has ended."""
    return parse_uid((root / str(pid) / "status").read_bytes())


def read_cgroup(pid: int, root: Path = PROC) -> bytes | None:
    """Read the cgroup v2 path. Raises OSError if the process has ended."""
    return parse_cgroup((root / str(pid) / "cgroup").read_bytes())


def read_exe(pid: int, root: Path = PROC) -> bytes:
    """Read the path of the executable. Raises OSError for kernel threads and ended processes."""
    path = os.readlink(os.fsencode(root / str(pid) / "exe"))
    return path.removesuffix(b" (deleted)")


def read_own_pid(pid: int, root: Path = PROC) -> int:
    """Return the ID of a process in this process' own pid namespace.

    `root` may be the procfs of an outer namespace. Raises OSError if the process has ended, and
    ValueError if it is not in this namespace.
    """
    ours = parse_nspid((root / "self/status").read_bytes())
    theirs = parse_nspid((root / str(pid) / "status").read_bytes())
    if len(theirs) < len(ours):
        raise ValueError(f"process {pid} is not within this pid namespace")
    own = theirs[len(ours) - 1]
    if len(ours) > 1 and read_stat(own).start != read_stat(pid, root).start:
        raise ValueError(f"process {pid} is in another pid namespace")  # beside this one
    return own


def read_io_urings(pid: int, root: Path = PROC, most: int = 4096) -> Iterator[int]:
    """Yield the io_uring descriptors among the first `most` descriptors of a process.

    Raises OSError if the process has ended.
    """
    folder = root / str(pid) / "fd"
    with os.scandir(folder) as entries:
        for entry in islice(entries, most):
            try:
                if os.readlink(entry.path) == "anon_inode:[io_uring]":
                    yield int(entry.name)
            except FileNotFoundError:  # closed meanwhile
                continue


def read_execfn(pid: int, root: Path = PROC) -> bytes | None:
    """Read the path that was passed to execve, or None if the process has overwritten it.

    Raises OSError if the process has ended or may not be read.
    """
    at = parse_auxv((root / str(pid) / "auxv").read_bytes()).get(_AT_EXECFN)
    if not at:
        return None
    with (root / str(pid) / "mem").open("rb", buffering=0) as memory:
        memory.seek(at)
        return memory.read(_PATH_MAX).partition(b"\0")[0] or None
