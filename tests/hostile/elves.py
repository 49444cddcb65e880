"""ELF files as no linker makes them."""

from __future__ import annotations

from struct import pack

Segment = tuple[int, int, int, int, int]  # type, flags, offset, address, size
Section = tuple[int, int, int, int]  # type, offset, size, link
CODE: Segment = (1, 5, 0, 0, 4096)
SYMBOL, HEADERS = 24, 64 + 56 + 2 * 64


def elf(
    sections: list[Section],
    segments: list[Segment],
    body: bytes = b"",
    *,
    section_size: int = 64,
    segment_size: int = 56,
    more: int = 0,
) -> bytes:
    """Return a file; its header names `more` sections than there are."""
    at = 64 + 56 * len(segments)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    sizes = (64, segment_size, len(segments), section_size, len(sections) + more, 0)
    head += pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, at, 0, *sizes)
    parts = [head]
    for kind, flags, offset, address, size in segments:
        parts += [pack("<IIQQQQQQ", kind, flags, offset, address, address, size, size, 4096)]
    for kind, offset, size, link in sections:
        parts += [pack("<IIQQQQIIQQ", 0, kind, 0, 0, offset, size, link, 0, 0, SYMBOL)]
    return b"".join(parts) + body


def symbol(name_at: int, address: int) -> bytes:
    return pack("<IBBHQQ", name_at, 0x12, 0, 1, address, 8)


def library(address: int, segment: Segment = CODE, name: bytes = b"malloc\0") -> bytes:
    """Return a file that has malloc at an address."""
    table = bytes(SYMBOL) + symbol(1, address)
    tables = [(11, HEADERS, len(table), 1), (3, HEADERS + len(table), 1 + len(name), 0)]
    return elf(tables, [segment], table + b"\0" + name)
