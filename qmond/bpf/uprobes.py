"""Allocation probes: malloc, calloc, realloc and free of one interpreter process.

A probe is a breakpoint in every mapping of libc's file that the process may execute, so it goes
in only where the guest's own code cannot come from that file, and always for one process: a probe
for all would cost every process of the host microseconds a call.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from struct import Struct, pack
from typing import Final

from qmond.bpf.elf import is_static, symbol_offsets
from qmond.bpf.maps import bpf
from qmond.processes import procfs

__all__ = [
    "UPROBE_MULTI",
    "NotProbedError",
    "UnsafeError",
    "attach",
    "check_library",
    "close",
    "has_multi",
    "is_static_program",
    "parse_maps",
]

FUNCTIONS: Final = ("malloc", "calloc", "realloc", "free")
UPROBE_MULTI: Final = 48  # enum bpf_attach_type: BPF_TRACE_UPROBE_MULTI
_PERF_EVENT: Final = 41  # BPF_PERF_EVENT
_LINK_CREATE: Final = 28
# struct bpf_link_create_attr with its uprobe_multi part: prog_fd, target_fd, attach_type, flags,
# path, offsets, ref_ctr_offsets, cookies, cnt, flags, pid, padding
_MULTI: Final = Struct("=IIIIQQQQIIII")
_PERF: Final = Struct("=IIIIQ")  # the same with its perf_event part: bpf_cookie
# struct perf_event_attr, version 1: type, size, five fields, wakeup_events, bp_type, and for a
# uprobe the path and the offset
_EVENT: Final = Struct("=IIQQQQQIIQQ")
_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241}
_CLOSE_ON_EXEC: Final = 8
_UPROBE_TYPE: Final = Path("/sys/bus/event_source/devices/uprobe/type")

_LIBC: Final = re.compile(rb"(?:libc[.-]|ld-musl-)[^/]*$")
_MAPS_MAX: Final = 4 << 20
"""Bytes of /proc/PID/maps: a process may have 65,530 mappings."""
_FUSE: Final = 0x65735546  # FUSE_SUPER_MAGIC
_STATFS_SIZE: Final = 120  # struct statfs, whose first member is f_type

_libc = ctypes.CDLL(None, use_errno=True)


class NotProbedError(Exception):
    """There is nothing to probe: the process has ended, or has no C library yet."""


class UnsafeError(Exception):
    """The guest has the C library's file mapped too."""


def parse_maps(data: bytes) -> str:
    """Return the range of libc's code in /proc/PID/maps, as `map_files` names it.

    Raises NotProbedError where there is none, UnsafeError where the same file is mapped elsewhere
    too: a dynamic linker maps a library once, so that is the guest's doing.
    """
    lines = [line.split(maxsplit=5) for line in data.splitlines()]
    files = [(parts[0], parts[1], tuple(parts[3:5]), parts[5]) for parts in lines if len(parts) > 5]
    code = next((row for row in files if row[1] == b"r-xp" and _LIBC.search(row[3])), None)
    if code is None:
        raise NotProbedError("no C library is mapped")
    ranges = [row[0].split(b"-") for row in files if row[2] == code[2]]
    if any(before[1] != after[0] for before, after in pairwise(ranges)):
        raise UnsafeError("the C library is mapped more than once")
    start, _, end = code[0].decode().partition("-")
    return f"{int(start, 16):x}-{int(end, 16):x}"


def is_static_program(pid: int, root: Path = procfs.PROC) -> bool:
    """Whether what a process executes names no dynamic linker. Raises OSError, ValueError."""
    with _opened(root / str(pid) / "exe") as program:
        return is_static(program)


def check_library(file: int) -> None:
    """Raise PermissionError where a file is not one that root alone can have made and can change.

    A file of FUSE has the owner that its server says, and the kernel waits for that server.
    """
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise PermissionError(errno.EPERM, "the C library is no regular file")
    if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, "others than root can change the C library")
    system = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc.fstatfs(file, system) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if int.from_bytes(system.raw[:8], "little") == _FUSE:
        raise PermissionError(errno.EPERM, "the C library is on a file system in user space")


def attach(program: int, pid: int, start: int, name: str, root: Path = procfs.PROC) -> list[int]:
    """Probe the process that started at `start` clock ticks and executes a file of this name.

    Returns the descriptors to close. The guest's architecture must not be the host's. Raises
    NotProbedError, UnsafeError, and OSError where the kernel refuses, the process has no ID here,
    or the library is not root's alone.
    """
    try:
        # through a descriptor of its directory no other process can be met that gets its ID
        directory = os.open(root / str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as gone:
        raise NotProbedError("the process has ended") from gone
    links: list[int] = []
    try:
        this = Path(f"/proc/self/fd/{directory}")
        own = _own_pid(pid, root)
        with (this / "maps").open("rb") as maps:
            mapped = parse_maps(maps.read(_MAPS_MAX))
        with _opened(this / "map_files" / mapped, check_library) as library:
            offsets = _symbols(_identity(library))
            if offsets and _is(this, start, name):
                path = f"/proc/self/fd/{library}".encode()  # the file that was checked
                links = _link(program, path, offsets, own)
                if not _is(this, start, name):
                    close(links)
                    raise NotProbedError("the process is another one now")
    except (FileNotFoundError, ProcessLookupError, ValueError) as gone:
        raise NotProbedError("the process has ended") from gone
    finally:
        os.close(directory)
    if not links:
        raise NotProbedError("its C library has no such functions")
    return links


def close(links: Iterable[int]) -> None:
    """Take the probes out; it waits for the kernel, up to a tenth of a second each."""
    for link in links:
        os.close(link)


def has_multi(program: int) -> bool:
    """Whether the kernel can put all functions of a process on one link, as Linux 6.6 can."""
    try:
        os.close(_multi(program, b"/", {"malloc": 0}, 0))
    except OSError as refusal:
        return refusal.errno == errno.EBADF  # it went on to look at the file, which is a directory
    return True


def _own_pid(pid: int, root: Path) -> int:
    try:
        return procfs.read_own_pid(pid, root)
    except ValueError as error:
        raise PermissionError(errno.EPERM, str(error)) from error


def _is(this: Path, start: int, name: str) -> bool:
    stat = procfs.parse_stat((this / "stat").read_bytes())
    exe = os.readlink(this / "exe").removesuffix(" (deleted)")
    return stat.start == start and os.path.basename(exe) == name


def _no_check(_file: int) -> None:
    """Check nothing."""


@contextmanager
def _opened(path: Path, check: Callable[[int], None] = _no_check) -> Iterator[int]:
    """Yield a regular file's descriptor; `check` is called before anything of it is opened.

    Raises OSError, ValueError.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        check(place)
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise ValueError("no regular file")
        file = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(place)
    try:
        yield file
    finally:
        os.close(file)


@dataclass(frozen=True, slots=True)
class _Identity:
    """Which file it is, in which state; and how it is open now."""

    file: int = field(compare=False)
    device: int
    inode: int
    changed: int


def _identity(file: int) -> _Identity:
    status = os.fstat(file)
    return _Identity(file, status.st_dev, status.st_ino, status.st_ctime_ns)


@functools.lru_cache(maxsize=64)
def _symbols(library: _Identity) -> dict[str, int]:
    try:
        return symbol_offsets(library.file, FUNCTIONS)
    except ValueError:
        return {}


def _link(program: int, path: bytes, offsets: dict[str, int], pid: int) -> list[int]:
    if has_multi(program):
        return [_multi(program, path, offsets, pid)]
    links: list[int] = []
    try:
        for function, offset in offsets.items():
            links += _perf(program, path, offset, pid, cookie=int(function == "free"))
    except OSError:
        close(links)
        raise
    return links


def _multi(program: int, path: bytes, offsets: dict[str, int], pid: int) -> int:
    """Return a link with all functions; the cookie tells free."""
    count = len(offsets)
    places = ctypes.create_string_buffer(pack(f"={count}Q", *offsets.values()))
    cookies = ctypes.create_string_buffer(pack(f"={count}Q", *(name == "free" for name in offsets)))
    name = ctypes.create_string_buffer(path)
    at = ctypes.addressof
    return bpf(
        _LINK_CREATE,
        _MULTI.pack(
            program, 0, UPROBE_MULTI, 0, at(name), at(places), 0, at(cookies), count, 0, pid, 0
        ),
    )


def _perf(program: int, path: bytes, offset: int, pid: int, *, cookie: int) -> list[int]:
    """Return a perf event for one function, and the link that runs the program on it."""
    name = ctypes.create_string_buffer(path)
    kind = int(_UPROBE_TYPE.read_text())
    place = ctypes.addressof(name)
    attributes = ctypes.create_string_buffer(
        _EVENT.pack(kind, _EVENT.size, 0, 0, 0, 0, 0, 0, 0, place, offset)
    )
    number = _PERF_EVENT_OPEN[platform.machine()]
    event: int = _libc.syscall(number, attributes, pid, -1, -1, _CLOSE_ON_EXEC)
    if event < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        link = bpf(_LINK_CREATE, _PERF.pack(program, event, _PERF_EVENT, 0, cookie))
    except OSError:
        os.close(event)
        raise
    return [link, event]
