"""The process table: who is this pid, what guest does it run, for which architecture.

It follows the records in the order of the ring: a fork stands before the child's first event, an
exec before the new program's. A process that the table does not know, because its record was
lost, is looked up in procfs.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from qmond import procfs
from qmond.cgroups import container_of
from qmond.clock import TICK_NS
from qmond.escape import json_bytes
from qmond.events import NUMBER
from qmond.records import IMAGE_FORMAT, PARENT_FORMAT, PARENTS_MAX, Flag

__all__ = [
    "News",
    "Parents",
    "Process",
    "ProcessTable",
    "architecture",
    "guest_of",
    "json_text",
    "parse_cgroup_names",
    "parse_parents",
    "read_parents",
    "read_process",
    "text_of",
]

_ADOPT: Final = NUMBER["TRACK_ADOPT"]

_WITH_ARGUMENT: Final = frozenset(
    "0 B D E L R U cpu d dfilter g p plugin r rtsig-map s seed tb-size trace".split()  # noqa: SIM905
)
"""Options of qemu-user that take the argument behind them: linux-user/main.c, QEMU 7.2 to 9.2."""

_INVALID: Final = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of a byte
_INTERPRETER: Final = re.compile(r"qemu-([a-z0-9_]+?)(-static)?")


def text_of(data: bytes) -> str:
    """Return bytes as text; every byte that is no valid UTF-8 becomes U+FFFD."""
    return _INVALID.sub("\ufffd", data.decode(errors="surrogateescape"))


def json_text(data: bytes) -> bytes:
    """Return bytes as a JSON string, as `text_of` has them."""
    return json_bytes(text_of(data))


def architecture(name: str) -> str | None:
    """Return the guest architecture that an interpreter's file name tells: `qemu-arm-static`."""
    match = _INTERPRETER.fullmatch(name)
    return match[1] if match else None


def guest_of(
    filename: bytes, argv: list[bytes], *, emulated: bool, interpreted: bool
) -> bytes | None:
    """Return the path of the program that runs, from what execve was given.

    `emulated`: the file that executes is qemu-user; `interpreted`: the kernel's binfmt_misc put
    it in front of the program that was asked for, whose path is its first argument then.
    """
    if not emulated:
        return filename
    if interpreted:
        return argv[1] if len(argv) > 1 else filename
    words = iter(argv[1:])
    for word in words:
        if not word.startswith(b"-"):
            return word
        option = word[1:].removeprefix(b"-")
        if not option:
            return next(words, None)
        if option.decode(errors="replace") in _WITH_ARGUMENT:
            next(words, None)
    return None


Parents = tuple[tuple[int, str], ...]
"""Process ID and comm of the parent, of its parent, and so on."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process under watch; `start` in ns since boot, in whole clock ticks as /proc has it.

    `pid` and `start` name it for ever. `tree` is the process under watch that it and its siblings
    descend from: itself, where it came under watch by its own name. `truncated` says that its
    command line was longer than what is known of it. `bin_json` and `suffix` are its constant
    parts of a line, rendered once.
    """

    pid: int
    ppid: int = 0
    bin: str = ""
    origin: str = "unknown"
    argv: tuple[bytes, ...] = ()
    comm: str = ""
    guest: bytes | None = None
    arch: str | None = None
    launch: str = ""
    uid: int = 0
    cgroup: str | None = None
    container: str | None = None
    start: int = 0
    tree: int = 0
    parents: Parents = ()
    allocations: str = ""
    truncated: bool = False
    bin_json: bytes = b'""'
    suffix: bytes = b""

    def rendered(self) -> Process:
        """Return the same with its constant parts."""
        arch = b',"arch":' + orjson.dumps(self.arch) if self.arch else b""
        guest = b',"guest":' + json_text(self.guest) if self.guest is not None else b""
        if self.guest is not None and text_of(self.guest).encode() != self.guest:
            guest += b',"guest_b64":"' + base64.b64encode(self.guest) + b'"'
        return replace(self, bin_json=orjson.dumps(self.bin), suffix=arch + guest)

    def is_same_image(self, other: Process) -> bool:
        """Whether that is this process, running what it runs."""
        mine = self.start, self.bin, self.argv
        return mine == (other.start, other.bin, other.argv)


def read_process(pid: int, root: Path = procfs.PROC) -> Process:
    """Return what procfs says of a process that already runs. Raises OSError, ValueError."""
    stat = procfs.read_stat(pid, root)
    living = procfs.alive(pid, root)
    exe = procfs.read_exe(*living)
    argv = procfs.read_cmdline(*living)
    filename = procfs.read_execfn(*living) or exe
    name = text_of(os.path.basename(exe))
    arch = architecture(name)
    # through binfmt_misc the path that was asked for is the guest's, not the interpreter's
    interpreted = architecture(text_of(os.path.basename(filename))) is None
    guest = guest_of(filename, argv, emulated=arch is not None, interpreted=interpreted)
    cgroup = procfs.read_cgroup(pid, root)
    return Process(
        pid=pid,
        ppid=stat.ppid,
        tree=pid,
        bin=name,
        origin="procfs",
        argv=tuple(argv),
        comm=text_of(stat.comm),
        guest=guest,
        arch=arch,
        launch="nested" if arch is None else "binfmt" if interpreted else "direct",
        uid=procfs.read_uid(pid, root),
        cgroup=cgroup,
        container=container_of(cgroup),
        start=stat.start * TICK_NS,
        parents=tuple(read_parents(stat.ppid, root)),
    ).rendered()


def read_parents(pid: int, root: Path = procfs.PROC) -> Iterator[tuple[int, str]]:
    """Yield a process and its ancestors, as far as they can be seen."""
    for _ in range(PARENTS_MAX):
        try:
            stat = procfs.read_stat(pid, root)
        except (OSError, ValueError):
            return
        yield pid, text_of(stat.comm)
        pid = stat.ppid


class News(NamedTuple):
    """What the table has learned: who came or changed, whose end came, who allocates too much."""

    started: list[Process]
    ended: list[int]
    over_budget: list[int]


class ProcessTable:
    """The processes under watch, by tgid.

    `look_up` is asked for a process that no record told of, and may answer None; `cgroup_path`
    for the path of a cgroup v2 ID; `allocations` whether a process' are counted, in a word.
    `changed` hears of each process whose constant parts of a line are not what they were.
    """

    def __init__(
        self,
        look_up: Callable[[int], Process | None],
        cgroup_path: Callable[[int], str | None],
        allocations: Callable[[Process], str],
        changed: Callable[[int], None],
    ) -> None:
        self._look_up = look_up
        self._cgroup_path = cgroup_path
        self._allocations = allocations
        self._changed = changed
        self._processes: dict[int, Process] = {}
        self._doubted: set[int] = set()
        self._unknown: dict[int, Process] = {}
        self._news = News([], [], [])

    def __len__(self) -> int:
        return len(self._processes)

    def __iter__(self) -> Iterator[Process]:
        for pid in tuple(self._doubted):
            self._confirm(pid)
        return iter(tuple(self._processes.values()))

    def __getitem__(self, pid: int) -> Process:
        """Return a process; one that nobody knows anything of has empty parts."""
        if pid in self._doubted:
            self._confirm(pid)
        known = self._processes.get(pid) or self._unknown.get(pid)
        if known is None:
            known = self._look_up(pid)
            if known is not None:
                return self.adopt(known)
            known = self._unknown[pid] = Process(pid)
        return known

    def uid_of(self, pid: int) -> int | None:
        """Return the real user ID of a process, where it is known."""
        known = self._processes.get(pid)
        return known.uid if known else None

    def descendants(self, pid: int) -> list[int]:
        """Return the processes that descend from one, as far as their ancestors are known."""
        return [
            process.pid
            for process in self
            if process.ppid == pid or any(parent == pid for parent, _ in process.parents)
        ]

    def adopt(self, process: Process) -> Process:
        """Enter a process, or what it has become; returns it with its word on allocations."""
        process = replace(process, allocations=self._allocations(process))
        self._enter(process)
        return process

    def fork(self, parent: int, child: int, start: int) -> None:
        """Enter a child that was made `start` ns after boot: until it execs, it is its parent."""
        known = self[parent]
        self._enter(
            replace(
                known,
                pid=child,
                ppid=parent,
                tree=known.tree or parent,
                origin="fork",
                start=start // TICK_NS * TICK_NS,
                parents=((parent, known.comm), *known.parents)[:PARENTS_MAX],
            )
        )

    def note_over_budget(self, pid: int) -> None:
        """Take note that a process allocates more often than it may be counted for."""
        self._news.over_budget.append(pid)

    def forget(self, pid: int) -> None:
        """Drop a process that has ended."""
        self._processes.pop(pid, None)
        self._doubted.discard(pid)
        self._changed(pid)
        self._news.ended.append(pid)

    def doubt(self, is_tracked: Callable[[int], bool]) -> None:
        """Drop who is not under watch any more, look the others up again: records were lost."""
        for pid in [pid for pid in self._processes if not is_tracked(pid)]:
            self.forget(pid)
        self._doubted = set(self._processes)
        for pid in self._doubted:
            self._changed(pid)

    def take_news(self) -> News:
        """Return what was learned since the last call."""
        news, self._news = self._news, News([], [], [])
        for pid in self._unknown:
            self._changed(pid)
        self._unknown.clear()
        return news

    def image(self, record: bytes) -> Process:
        """Enter what an image record tells: a process executes a program from here on."""
        _, pid, _, number, _, flags, ppid, uid, start = IMAGE_FORMAT.unpack_from(record)
        strings = IMAGE_FORMAT.size + PARENTS_MAX * PARENT_FORMAT.size
        name, filename, cgroup, arguments = record[strings:].split(b"\0", 3)
        argv = procfs.parse_cmdline(arguments)
        text = text_of(name)
        arch = architecture(text)
        interpreted = bool(flags & Flag.INTERPRETED)
        guest = guest_of(filename, argv, emulated=arch is not None, interpreted=interpreted)
        launch = "binfmt" if interpreted else "direct"
        if number == _ADOPT:
            parents, tree = parse_parents(record[IMAGE_FORMAT.size : strings]), pid
        else:
            launch, known = "nested", self[pid]
            parents, tree = known.parents, known.tree or pid
        if flags & Flag.TRUNCATED and argv and guest is argv[-1]:
            guest = None  # a part of its path
        path = parse_cgroup_names(cgroup)
        process = Process(
            pid=pid,
            ppid=ppid,
            tree=tree,
            bin=text,
            origin="exec",
            argv=tuple(argv),
            truncated=bool(flags & Flag.TRUNCATED),
            comm=text_of(os.path.basename(filename)[:15]),
            guest=guest,
            arch=arch,
            launch=launch,
            uid=uid,
            cgroup=path,
            container=container_of(path),
            start=start // TICK_NS * TICK_NS,
            parents=parents,
        )
        return self.adopt(process.rendered())

    def _enter(self, process: Process) -> None:
        self._processes[process.pid] = process
        self._doubted.discard(process.pid)
        self._unknown.pop(process.pid, None)
        self._changed(process.pid)
        self._news.started.append(process)

    def _confirm(self, pid: int) -> None:
        """Look a process up again: it may execute another program, or be another one."""
        self._doubted.discard(pid)
        found = self._look_up(pid)
        if found is not None and not found.is_same_image(self._processes[pid]):
            self.adopt(found)


def parse_cgroup_names(data: bytes) -> str | None:
    """Return the path of a cgroup, from the names up to the root as an image record has them.

    None where they do not reach up to there.
    """
    if data and not data.endswith(b"/"):
        return None
    return text_of(b"/" + b"/".join(reversed(data.split(b"/")[:-1])))


def parse_parents(data: bytes) -> Parents:
    """Parse the ancestors that an image record tells of; pid 0 is the kernel's own."""
    rows = PARENT_FORMAT.iter_unpack(data)
    return tuple((pid, text_of(comm.partition(b"\0")[0])) for pid, comm in rows if pid)
