"""Allocation probes: malloc, calloc, realloc and free of one interpreter process.

A probe is a breakpoint in every executable mapping of libc's file. So it is attached only if the
guest's own code cannot come from that file. It is always attached to one process: a probe in all
processes would cost each of them microseconds per call.
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
# struct perf_event_attr, version 1: type, size, five fields, wakeup_events, bp_type; then the path
# and the offset of the uprobe
_EVENT: Final = Struct("=IIQQQQQIIQQ")
_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241}
_CLOSE_ON_EXEC: Final = 8
_UPROBE_TYPE: Final = Path("/sys/bus/event_source/devices/uprobe/type")

_LIBC: Final = re.compile(rb"(?:libc[.-]|ld-musl-)[^/]*$")
_MAPS_MAX: Final = 4 << 20
"""Bytes of /proc/PID/maps that are read: a process may have 65,530 mappings."""
_FUSE: Final = 0x65735546  # FUSE_SUPER_MAGIC
_STATFS_SIZE: Final = 120  # struct statfs, whose first member is f_type

_libc = ctypes.CDLL(None, use_errno=True)


class NotProbedError(Exception):
    """There is nothing to probe: the process has ended, or has not mapped a C library yet."""


class UnsafeError(Exception):
    """The C library's file is mapped more than once, so the guest may execute it."""


def parse_maps(data: bytes) -> str:
    """Find libc's code in /proc/PID/maps; returns its address range as `map_files` names it.

    Raises NotProbedError if there is none, and UnsafeError if the same file is mapped a second
    time: the dynamic linker maps a library once, so the guest has mapped it.
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
    """Whether the executable of a process is linked statically. Raises OSError, ValueError."""
    with _opened(root / str(pid) / "exe") as program:
        return is_static(program)


def check_library(file: int) -> None:
    """Raise PermissionError if another user than root can have made or can change a file.

    A FUSE server sets the owner of its files at will, and can let readers wait for ever.
    """
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise PermissionError(errno.EPERM, "the C library is not a regular file")
    if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, "other users than root can change the C library")
    system = ctypes.create_string_buffer(_STATFS_SIZE)
    if _libc.fstatfs(file, system) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if int.from_bytes(system.raw[:8], "little") == _FUSE:
        raise PermissionError(errno.EPERM, "the C library is on a FUSE file system")


def attach(program: int, pid: int, start: int, name: str, root: Path = procfs.PROC) -> list[int]:
    """Attach probes to the process that started at `start` clock ticks and executes a file `name`.

    Returns the descriptors; closing them removes the probes. The guest's architecture must not be
    the host's. Raises NotProbedError, UnsafeError, and OSError if the kernel refuses, the process
    has no ID in this pid namespace, or another user than root can change the library.
    """
    try:
        # a descriptor of its directory never leads to another process with the same ID
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
                path = f"/proc/self/fd/{library}".encode()  # the same file that was checked
                links = _link(program, path, offsets, own)
                if not _is(this, start, name):
                    close(links)
                    raise NotProbedError("the process has changed")
    except (FileNotFoundError, ProcessLookupError, ValueError) as gone:
        raise NotProbedError("the process has ended") from gone
    finally:
        os.close(directory)
    if not links:
        raise NotProbedError("its C library has no such functions")
    return links


def close(links: Iterable[int]) -> None:
    """Remove probes. The kernel takes up to a tenth of a second for each."""
    for link in links:
        os.close(link)


def has_multi(program: int) -> bool:
    """Whether the kernel has uprobe_multi links, as Linux 6.6 has."""
    try:
        os.close(_multi(program, b"/", {"malloc": 0}, 0))
    except OSError as refusal:
        return (
            refusal.errno == errno.EBADF
        )  # EBADF: it supports the link, but the file is a directory
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
    """Accept every file."""


@contextmanager
def _opened(path: Path, check: Callable[[int], None] = _no_check) -> Iterator[int]:
    """Open a regular file, and yield its descriptor; `check` is called before it is opened.

    Raises OSError, ValueError.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        check(place)
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise ValueError("not a regular file")
        file = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(place)
    try:
        yield file
    finally:
        os.close(file)


@dataclass(frozen=True, slots=True)
class _Identity:
    """A file and its version, as a key; `file` is its open descriptor, which does not count."""

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
    """Return one link for all functions; the cookie is 1 for free."""
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
    """Return the link to the program for one function, and its perf event."""
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
