"""The process table: who is this pid, what guest does it run, for which architecture.

It follows the records in the order of the ring: a fork stands before the child's first event, an
exec before the new program's. A process that the table does not know, because its record was
lost, is looked up in procfs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import orjson

from qmond import procfs
from qmond.records import IMAGE_FORMAT, Flag

__all__ = [
    "Process",
    "ProcessTable",
    "architecture",
    "guest_of",
    "json_text",
    "read_process",
    "text_of",
]

_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

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
    return orjson.dumps(text_of(data))


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


@dataclass(frozen=True, slots=True)
class Process:
    """A process under watch; `start` in ns since boot, in whole clock ticks as /proc has it.

    `bin_json` and `suffix` are its constant parts of a line, rendered once.
    """

    pid: int
    ppid: int
    bin: str
    origin: str
    argv: tuple[bytes, ...]
    guest: bytes | None
    arch: str | None
    uid: int
    cgroup: str | None
    start: int
    bin_json: bytes = b'""'
    suffix: bytes = b""

    def rendered(self) -> Process:
        """Return the same with its constant parts."""
        arch = b',"arch":' + orjson.dumps(self.arch) if self.arch else b""
        guest = b',"guest":' + json_text(self.guest) if self.guest is not None else b""
        return replace(self, bin_json=orjson.dumps(self.bin), suffix=arch + guest)


def read_process(pid: int, root: Path = procfs.PROC) -> Process:
    """Return what procfs says of a process that already runs. Raises OSError, ValueError."""
    stat = procfs.read_stat(pid, root)
    exe = procfs.read_exe(pid, root)
    argv = procfs.read_cmdline(pid, root)
    filename = procfs.read_execfn(pid, root) or exe
    name = text_of(os.path.basename(exe))
    arch = architecture(name)
    # through binfmt_misc the path that was asked for is the guest's, not the interpreter's
    interpreted = architecture(text_of(os.path.basename(filename))) is None
    guest = guest_of(filename, argv, emulated=arch is not None, interpreted=interpreted)
    return Process(
        pid=pid,
        ppid=stat.ppid,
        bin=name,
        origin="procfs",
        argv=tuple(argv),
        guest=guest,
        arch=arch,
        uid=procfs.read_uid(pid, root),
        cgroup=procfs.read_cgroup(pid, root),
        start=stat.start * _TICK_NS,
    ).rendered()


class ProcessTable:
    """The processes under watch, by tgid.

    `look_up` is asked for a process that no record told of, and may answer None; `cgroup_path`
    for the path of a cgroup v2 ID.
    """

    def __init__(
        self,
        look_up: Callable[[int], Process | None],
        cgroup_path: Callable[[int], str | None],
    ) -> None:
        self._look_up = look_up
        self._cgroup_path = cgroup_path
        self._processes: dict[int, Process] = {}
        self._started: list[Process] = []
        self._ended: list[int] = []

    def __len__(self) -> int:
        return len(self._processes)

    def __iter__(self) -> Iterator[Process]:
        return iter(self._processes.values())

    def __getitem__(self, pid: int) -> Process:
        """Return a process; one that nobody knows anything of any more has empty parts."""
        known = self._processes.get(pid)
        if known is None:
            known = self._look_up(pid) or Process(pid, 0, "", "unknown", (), None, None, 0, None, 0)
            self._processes[pid] = known
        return known

    def adopt(self, process: Process) -> None:
        """Enter a process, or what it has become."""
        self._processes[process.pid] = process
        self._started.append(process)

    def fork(self, parent: int, child: int) -> None:
        """Enter a child: until it execs, it is what its parent is."""
        self.adopt(replace(self[parent], pid=child, ppid=parent, origin="fork"))

    def forget(self, pid: int) -> None:
        """Drop a process that has ended."""
        self._processes.pop(pid, None)
        self._ended.append(pid)

    def keep_only(self, pids: Collection[int]) -> None:
        """Drop all others: the records of their ends were lost."""
        for pid in self._processes.keys() - set(pids):
            self.forget(pid)

    def take_news(self) -> tuple[list[Process], list[int]]:
        """Return which processes were entered, and which ended, since the last call."""
        news = self._started, self._ended
        self._started, self._ended = [], []
        return news

    def image(self, record: bytes) -> Process:
        """Enter what an image record tells: a process executes a program from here on."""
        _, pid, _, _, _, flags, ppid, uid, cgroup, start = IMAGE_FORMAT.unpack_from(record)
        name, filename, arguments = record[IMAGE_FORMAT.size :].split(b"\0", 2)
        argv = procfs.parse_cmdline(arguments)
        text = text_of(name)
        arch = architecture(text)
        guest = guest_of(
            filename,
            argv,
            emulated=arch is not None,
            interpreted=bool(flags & Flag.INTERPRETED),
        )
        process = Process(
            pid=pid,
            ppid=ppid,
            bin=text,
            origin="exec",
            argv=tuple(argv),
            guest=guest,
            arch=arch,
            uid=uid,
            cgroup=self._cgroup_path(cgroup),
            start=start // _TICK_NS * _TICK_NS,
        ).rendered()
        self.adopt(process)
        return process
