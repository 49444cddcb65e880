"""Allocation probes: malloc, calloc, realloc and free of one interpreter process.

A probe is a breakpoint in every mapping of libc's file that the process may execute, so it goes
in only where the guest's own code cannot come from that file, and always for one process: a probe
for all would cost every process of the host microseconds a call.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from struct import Struct, pack, unpack_from
from typing import Final

from qmond import procfs
from qmond.bpf.maps import bpf

__all__ = ["attach", "is_safe", "parse_maps", "symbol_offsets"]

FUNCTIONS: Final = ("malloc", "calloc", "realloc", "free")
_LINK_CREATE: Final = 28
_UPROBE_MULTI: Final = 48
# struct bpf_link_create_attr with its uprobe_multi part: prog_fd, target_fd, attach_type, flags,
# path, offsets, ref_ctr_offsets, cookies, cnt, flags, pid, padding
_ATTRIBUTES: Final = Struct("=IIIIQQQQIIII")

_HOSTS_OWN: Final = {"x86_64": {"x86_64", "i386"}, "aarch64": {"aarch64", "arm"}}
_LIBC: Final = re.compile(rb"(?:libc[.-]|ld-musl-)[^/]*$")


def is_safe(arch: str | None, host: str) -> bool:
    """Whether no guest of that architecture can run the host's libc as its own code."""
    return arch is not None and arch not in _HOSTS_OWN.get(host, {arch})


def parse_maps(data: bytes) -> str | None:
    """Return the range of libc's code in /proc/PID/maps, as `map_files` names it."""
    for line in data.splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[1].startswith(b"r-xp") and _LIBC.search(parts[5]):
            start, _, end = parts[0].decode().partition("-")
            return f"{int(start, 16):x}-{int(end, 16):x}"
    return None


def symbol_offsets(data: bytes, names: Iterable[str]) -> dict[str, int]:
    """Return where in a 64-bit ELF file each function starts, from its dynamic symbol table.

    The format: elf(5). Raises ValueError, struct.error where it is none.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    wanted = {name.encode(): name for name in names}
    program_at, section_at = unpack_from("<QQ", data, 32)
    program_size, programs, section_size, sections = unpack_from("<HHHH", data, 54)
    loads = [  # PT_LOAD: file offset, address, size in the file
        unpack_from("<QQ8xQ", data, at + 8)
        for at in range(program_at, program_at + programs * program_size, program_size)
        if unpack_from("<I", data, at)[0] == 1
    ]
    headers = [
        unpack_from("<IIQQQQII", data, section_at + index * section_size)
        for index in range(sections)
    ]
    found = {}
    for _, kind, _, _, offset, size, link, _ in headers:
        if kind != 11:  # SHT_DYNSYM
            continue
        strings = headers[link][4]
        for at in range(offset, offset + size, 24):
            name_at, info, _, section, address = unpack_from("<IBBHQ", data, at)
            if info & 0xF not in (2, 10) or not section:  # STT_FUNC, STT_GNU_IFUNC; undefined
                continue
            start = strings + name_at
            name = wanted.get(data[start : data.index(b"\0", start, start + 4096)])
            if name:
                found[name] = next(o + address - a for o, a, n in loads if a <= address < a + n)
    return found


def attach(program: int, pid: int, root: Path = procfs.PROC) -> int | None:
    """Probe a process; returns the link's descriptor, or None where nothing can be probed.

    A static interpreter has no libc, and one that has just started has none yet. The caller has
    asked `is_safe`. Raises OSError where the kernel refuses.
    """
    directory = root / str(pid)
    try:
        mapping = parse_maps((directory / "maps").read_bytes())
        if mapping is None:
            return None
        library = directory / "map_files" / mapping
        status = library.stat()
        offsets = _symbols(library, status.st_dev, status.st_ino)
        return _link(program, os.fsencode(library), offsets, pid) if offsets else None
    except (FileNotFoundError, ProcessLookupError):
        return None  # the process has ended


@functools.lru_cache(maxsize=64)
def _symbols(library: Path, _device: int, _inode: int) -> dict[str, int]:
    return symbol_offsets(library.read_bytes(), FUNCTIONS)


def _link(program: int, path: bytes, offsets: dict[str, int], pid: int) -> int:
    """Put all functions of a process on one link, which Linux 6.6 can; the cookie tells free."""
    count = len(offsets)
    places = ctypes.create_string_buffer(pack(f"={count}Q", *offsets.values()))
    cookies = ctypes.create_string_buffer(pack(f"={count}Q", *(name == "free" for name in offsets)))
    name = ctypes.create_string_buffer(path)
    at = ctypes.addressof
    return bpf(
        _LINK_CREATE,
        _ATTRIBUTES.pack(
            program, 0, _UPROBE_MULTI, 0, at(name), at(places), 0, at(cookies), count, 0, pid, 0
        ),
    )
