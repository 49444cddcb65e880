"""The records that the kernel side writes and the daemon reads: their layout, member by member.

Both the C structs and the formats of Python's struct module are made from it.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

__all__ = [
    "ADDRESS_MAX",
    "ARGV_MAX",
    "CAPTURE_MAX",
    "COMM_SIZE",
    "HEAD",
    "IMAGE",
    "IMAGE_FORMAT",
    "OTHERS",
    "PARENTS_MAX",
    "PARENT_FORMAT",
    "PATTERN_MAX",
    "PATTERN_WORDS",
    "RECORD",
    "RECORD_FORMAT",
    "Flag",
    "Layout",
    "layout_format",
]

ARGV_MAX: Final = 4096
"""How many bytes of a command line are read."""
PATTERN_WORDS: Final = 4
"""A file name is compared by its first words of 8 bytes."""
PATTERN_MAX: Final = 16
"""How many prefixes `match.prefixes` and `match.exclude` may have, each."""
OTHERS: Final = 0xFFFFFFFF
"""Stands for every process that has no room of its own in the statistics."""
CAPTURE_MAX: Final = 16384
"""The most content, in bytes, that one record can carry."""
ADDRESS_MAX: Final = 128
"""How many bytes of a socket address are read: as many as the kernel takes of one."""

PARENTS_MAX: Final = 8
"""How many ancestors an image record tells of: as many `struct qmon_parent` follow its fields."""
COMM_SIZE: Final = 16

C_TYPES: Final = {"u16": "H", "u32": "I", "s32": "i", "u64": "Q"}
"""C type → its letter in Python's struct module."""

Layout = tuple[tuple[str, str], ...]

HEAD: Final[Layout] = (
    ("ts", "u64"),  # CLOCK_MONOTONIC, ns
    ("pid", "u32"),  # tgid, as the host's first pid namespace counts
    ("tid", "u32"),
    ("event", "u16"),
    ("call", "u16"),  # index into calls.NAMES; 0 where the call is the event's own
    ("flags", "u32"),
)
RECORD: Final[Layout] = (*HEAD, ("a", "u64"), ("b", "u64"))
IMAGE: Final[Layout] = (
    *HEAD,
    ("ppid", "u32"),
    ("uid", "u32"),
    ("start", "u64"),  # task_struct.start_boottime, ns
)


def layout_format(layout: Layout) -> Struct:
    """Return the struct format of a record; the fields are naturally aligned, so none is padded."""
    return Struct("=" + "".join(C_TYPES[ctype] for _, ctype in layout))


RECORD_FORMAT: Final = layout_format(RECORD)
IMAGE_FORMAT: Final = layout_format(IMAGE)
PARENT_FORMAT: Final = Struct(f"=I{COMM_SIZE}s")


class Flag:
    """Bits of a record's `flags`."""

    TRUNCATED: Final = 1  # the data hold less than there was
    FAULT: Final = 2  # a page of it could not be read
    COUNTED: Final = 4  # the record is in the kernel's `seen`: a line must come of it
    INTERPRETED: Final = 8  # an image that binfmt_misc or a #! line started, not its own name
    WITHHELD: Final = 16  # the line has no text; the encoder says so, never the kernel
