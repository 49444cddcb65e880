"""Read procfs: find the processes to watch, and describe one of them."""

from __future__ import annotations

import itertools
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmond.events.records import PARENTS_MAX
from qmond.looker.requests import PATH_MAX, RINGS_MAX, Outline, Seen, Words
from qmond.processes import procfs

__all__ = ["matches", "outline", "scan", "words"]

_PROCESSES_MAX: Final = 1 << 18
_SECONDS: Final = 10.0
"""The time limit of a scan: a process that forks without end cannot keep it going."""


def matches(name: bytes, prefixes: tuple[bytes, ...], excludes: tuple[bytes, ...]) -> bool:
    """Whether a file name or comm is to be watched, by the same rule as the kernel side's."""
    return name.startswith(prefixes) and not name.startswith(excludes)


def scan(root: Path, prefixes: tuple[bytes, ...], excludes: tuple[bytes, ...]) -> Iterator[Seen]:
    """Yield the processes that match, and their descendants."""
    end = time.monotonic() + _SECONDS
    starts: dict[int, tuple[int, int]] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    found: list[int] = []
    for pid in itertools.islice(procfs.pids(root), _PROCESSES_MAX):
        if time.monotonic() > end:
            break
        try:
            stat = procfs.read_stat(pid, root)
        except (OSError, ValueError):
            continue
        starts[pid] = stat.ppid, stat.start
        children[stat.ppid].append(pid)
        if _is_match(pid, stat, root, prefixes, excludes):
            found.append(pid)
    seen = set(found)
    for pid in found:  # the list grows meanwhile
        below = [child for child in children[pid] if child not in seen]
        seen.update(below)
        found += below
    for pid in found:
        try:
            uid = procfs.read_uid(pid, root)
        except (OSError, ValueError):
            continue
        yield Seen(pid, *starts[pid], uid)


def outline(pid: int, root: Path) -> Outline:
    """Return what can be read without the process' memory. Raises OSError, ValueError."""
    stat = procfs.read_stat(pid, root)
    cgroup = procfs.read_cgroup(pid, root)
    return Outline(
        comm=stat.comm,
        ppid=stat.ppid,
        start=stat.start,
        uid=procfs.read_uid(pid, root),
        exe=procfs.read_exe(*procfs.alive(pid, root)),
        cgroup=None if cgroup is None else cgroup[:PATH_MAX],
        parents=tuple(_parents(stat.ppid, root)),
        rings=tuple(_rings(pid, root)),
    )


def words(pid: int, root: Path) -> Words | None:
    """Return what is in the process' memory. This may block for ever.

    Returns None if it cannot be read: a process can unmap such a page.
    """
    try:
        living = procfs.alive(pid, root)
        return Words(procfs.read_cmdline(*living), procfs.read_execfn(*living))
    except (OSError, ValueError):
        return None


def _rings(pid: int, root: Path) -> list[int]:
    try:
        return [*procfs.read_io_urings(pid, root, RINGS_MAX)]
    except OSError:
        return []


def _parents(pid: int, root: Path) -> Iterator[tuple[int, bytes]]:
    """Yield a process and its ancestors, as far as they are visible."""
    for _ in range(PARENTS_MAX):
        try:
            stat = procfs.read_stat(pid, root)
        except (OSError, ValueError):
            return
        yield pid, stat.comm
        pid = stat.ppid


def _is_match(
    pid: int,
    stat: procfs.Stat,
    root: Path,
    prefixes: tuple[bytes, ...],
    excludes: tuple[bytes, ...],
) -> bool:
    try:
        name = os.path.basename(procfs.read_exe(*procfs.alive(pid, root)))
    except (OSError, ValueError):  # it has ended
        return False
    return matches(name, prefixes, excludes) or matches(stat.comm, prefixes, excludes)
