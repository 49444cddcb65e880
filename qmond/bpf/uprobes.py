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
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from struct import Struct, error, pack
from typing import Final

from qmond import procfs
from qmond.bpf.elf import HEADERS_SIZE, is_static, symbol_offsets
from qmond.bpf.maps import bpf

__all__ = [
    "UPROBE_MULTI",
    "NotProbedError",
    "UnsafeError",
    "attach",
    "close",
    "has_multi",
    "is_safe",
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

_HOSTS_OWN: Final = {"x86_64": {"x86_64", "i386"}, "aarch64": {"aarch64", "arm"}}
_LIBC: Final = re.compile(rb"(?:libc[.-]|ld-musl-)[^/]*$")

_libc = ctypes.CDLL(None, use_errno=True)


class NotProbedError(Exception):
    """There is nothing to probe: the process has ended, or has no C library yet."""


class UnsafeError(Exception):
    """The guest has the C library's file mapped too."""


def is_safe(arch: str | None, host: str) -> bool:
    """Whether no guest of that architecture can run the host's libc as its own code."""
    return arch is not None and arch not in _HOSTS_OWN.get(host, {arch})


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
    return _is_static(_file(root / str(pid) / "exe"))


def attach(program: int, pid: int, start: int, name: str, root: Path = procfs.PROC) -> list[int]:
    """Probe the process that started at `start` clock ticks and executes a file of this name.

    Returns the descriptors to close. The caller has asked `is_safe`. Raises NotProbedError,
    UnsafeError, and OSError where the kernel refuses.
    """
    try:
        # through a descriptor of its directory no other process can be met that gets its ID
        directory = os.open(root / str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as gone:
        raise NotProbedError("the process has ended") from gone
    links: list[int] = []
    try:
        this = Path(f"/proc/self/fd/{directory}")
        library = this / "map_files" / parse_maps((this / "maps").read_bytes())
        offsets = _symbols(_file(library))
        if offsets and _is(this, start, name):
            links = _link(program, os.fsencode(library), offsets, procfs.read_own_pid(pid, root))
            if not _is(this, start, name):
                close(links)
                raise NotProbedError("the process is another one now")
    except (FileNotFoundError, ProcessLookupError, ValueError) as gone:
        raise NotProbedError("the process has ended, or has no ID here") from gone
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


def _is(this: Path, start: int, name: str) -> bool:
    stat = procfs.parse_stat((this / "stat").read_bytes())
    exe = os.readlink(this / "exe").removesuffix(" (deleted)")
    return stat.start == start and os.path.basename(exe) == name


@dataclass(frozen=True, slots=True)
class _File:
    """A file and how to get at it, which differs with each process."""

    path: Path = field(compare=False)
    device: int
    inode: int
    changed: int


def _file(path: Path) -> _File:
    status = path.stat()
    return _File(path, status.st_dev, status.st_ino, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _symbols(library: _File) -> dict[str, int]:
    try:
        return symbol_offsets(library.path.read_bytes(), FUNCTIONS)
    except (ValueError, error):
        return {}


@functools.lru_cache(maxsize=64)
def _is_static(program: _File) -> bool:
    try:
        with program.path.open("rb") as file:
            return is_static(file.read(HEADERS_SIZE))
    except error as wrong:
        raise ValueError("no 64-bit ELF file") from wrong


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
