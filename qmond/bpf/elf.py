"""What a 64-bit ELF file tells: where its functions are, and whether it is linked statically.

The format: elf(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import unpack_from
from typing import Final

__all__ = ["HEADERS_SIZE", "is_static", "symbol_offsets"]

HEADERS_SIZE: Final = 4096
"""The program headers are within so many bytes of the file's start: the kernel demands it."""

_PT_LOAD, _PT_INTERP = 1, 3
_SHT_DYNSYM: Final = 11
_FUNCTIONS: Final = (2, 10)  # STT_FUNC, STT_GNU_IFUNC


def is_static(data: bytes) -> bool:
    """Whether the file whose first bytes these are names no dynamic linker.

    Raises ValueError, struct.error where it is no 64-bit ELF file.
    """
    return all(kind != _PT_INTERP for kind, _, _, _ in _program_headers(data))


def symbol_offsets(data: bytes, names: Iterable[str]) -> dict[str, int]:
    """Return where in a file each function starts, from its dynamic symbol table.

    Raises ValueError, struct.error where it is no 64-bit ELF file.
    """
    loads = [(o, a, n) for kind, o, a, n in _program_headers(data) if kind == _PT_LOAD]
    wanted = {name.encode(): name for name in names}
    (section_at,) = unpack_from("<Q", data, 40)
    section_size, sections = unpack_from("<HH", data, 58)
    headers = [
        unpack_from("<IIQQQQII", data, section_at + index * section_size)
        for index in range(sections)
    ]
    found = {}
    for _, kind, _, _, offset, size, link, _ in headers:
        if kind != _SHT_DYNSYM:
            continue
        strings = headers[link][4]
        for at in range(offset, offset + size, 24):
            name_at, info, _, section, address = unpack_from("<IBBHQ", data, at)
            if info & 0xF not in _FUNCTIONS or not section:  # 0: it is another file's
                continue
            start = strings + name_at
            name = wanted.get(data[start : data.index(b"\0", start, start + 4096)])
            if name:
                found[name] = next(o + address - a for o, a, n in loads if a <= address < a + n)
    return found


def _program_headers(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield each header's type, file offset, address and size in the file."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (start,) = unpack_from("<Q", data, 32)
    size, count = unpack_from("<HH", data, 54)
    for at in range(start, start + count * size, size):
        kind, offset, address, in_file = unpack_from("<I4xQQ8xQ", data, at)
        yield kind, offset, address, in_file
