"""Read 64-bit ELF files: the offsets of functions, and whether a program is linked statically.

elf(5) has the format. The file may be hostile. So only the needed parts are read, each with a size
limit far above that of real libraries.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

__all__ = ["is_static", "symbol_offsets"]

_FILE_MAX: Final = 64 << 20
_PROGRAM_HEADERS_MAX: Final = 64
_SECTIONS_MAX: Final = 256
_SYMBOLS_MAX: Final = 100_000
_STRINGS_MAX: Final = 4 << 20
_NAME_MAX: Final = 256

_IDENT: Final = b"\x7fELF\x02\x01"
# struct Elf64_Ehdr from its 32nd byte on: phoff, shoff, phentsize, phnum, shentsize, shnum
_HEADER: Final = Struct("<32xQQ6xHHHH2x")
# struct Elf64_Phdr: type, flags, offset, vaddr, filesz
_PROGRAM: Final = Struct("<IIQQ8xQ16x")
# struct Elf64_Shdr: type, offset, size, link, entsize
_SECTION: Final = Struct("<4xI16xQQI12xQ")
# struct Elf64_Sym: name, info, shndx, value
_SYMBOL: Final = Struct("<IBxHQ8x")

_PT_LOAD, _PT_INTERP = 1, 3
_PF_X: Final = 1
_SHT_STRTAB, _SHT_DYNSYM = 3, 11
_FUNCTIONS: Final = (2, 10)  # STT_FUNC, STT_GNU_IFUNC


class _Segment(NamedTuple):
    kind: int
    flags: int
    offset: int
    address: int
    size: int


class _Section(NamedTuple):
    kind: int
    offset: int
    size: int
    link: int
    entry: int


def is_static(file: int) -> bool:
    """Whether an open file names no dynamic linker.

    Raises ValueError if it is not a 64-bit ELF file, OSError if it cannot be read.
    """
    return all(segment.kind != _PT_INTERP for segment in _segments(file, _header(file)))


def symbol_offsets(file: int, names: Iterable[str]) -> dict[str, int]:
    """Return the file offset of each of these functions, from the dynamic symbol table.

    Functions that the file does not have are left out. Raises ValueError if it is not a normal
    shared library, OSError if it cannot be read.
    """
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _FILE_MAX:
        raise ValueError("not a regular file, or too large for a library")
    wanted = {name.encode(): name for name in names}
    header = _header(file)
    code = [
        segment
        for segment in _segments(file, header)
        if segment.kind == _PT_LOAD and segment.flags & _PF_X
    ]
    symbols, strings = _tables(file, header)
    found = {}
    for name_at, info, section, address in _SYMBOL.iter_unpack(symbols):
        if info & 0xF not in _FUNCTIONS or not section:  # 0: undefined here
            continue
        end = strings.find(b"\0", name_at, name_at + _NAME_MAX + 1)
        if end < 0:
            raise ValueError("a symbol's name has no end")
        if name := wanted.get(strings[name_at:end]):
            found[name] = _file_offset(code, address, status.st_size)
    return found


def _tables(file: int, header: tuple[int, ...]) -> tuple[bytes, bytes]:
    """Return the dynamic symbols and their strings."""
    _, start, _, _, size, count = header
    if size != _SECTION.size or count > _SECTIONS_MAX:
        raise ValueError("section headers of a wrong size or number")
    rows = _read(file, start, size * count)
    sections = [_Section(*row) for row in _SECTION.iter_unpack(rows)]
    tables = [section for section in sections if section.kind == _SHT_DYNSYM]
    if len(tables) != 1:
        raise ValueError("there must be one table of dynamic symbols")
    (symbols,) = tables
    if symbols.entry != _SYMBOL.size or symbols.size % _SYMBOL.size:
        raise ValueError("dynamic symbols of a wrong size")
    if symbols.size > _SYMBOLS_MAX * _SYMBOL.size:
        raise ValueError("too many dynamic symbols")
    if symbols.link >= count or sections[symbols.link].kind != _SHT_STRTAB:
        raise ValueError("the dynamic symbols have no names")
    strings = sections[symbols.link]
    if strings.size > _STRINGS_MAX:
        raise ValueError("the names of the dynamic symbols are too long")
    return _read(file, symbols.offset, symbols.size), _read(file, strings.offset, strings.size)


def _file_offset(code: list[_Segment], address: int, size: int) -> int:
    for segment in code:
        if segment.address <= address < segment.address + segment.size:
            offset = segment.offset + address - segment.address
            if offset < size:
                return offset
            raise ValueError("a function is behind the file's end")
    raise ValueError("a function is outside of the code")


def _header(file: int) -> tuple[int, ...]:
    data = _read(file, 0, _HEADER.size)
    if not data.startswith(_IDENT):
        raise ValueError("not a 64-bit little-endian ELF file")
    return _HEADER.unpack(data)


def _segments(file: int, header: tuple[int, ...]) -> list[_Segment]:
    start, _, size, count, _, _ = header
    if size != _PROGRAM.size or count > _PROGRAM_HEADERS_MAX:
        raise ValueError("program headers of a wrong size or number")
    return [_Segment(*row) for row in _PROGRAM.iter_unpack(_read(file, start, size * count))]


def _read(file: int, offset: int, size: int) -> bytes:
    """Read a part of a file. Raises ValueError if the file ends before it."""
    if offset > _FILE_MAX:
        raise ValueError("a table is too far from the file's start")
    data = os.pread(file, size, offset)
    if len(data) < size:
        raise ValueError("not an ELF file, or the file is cut")
    return data
