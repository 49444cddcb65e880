"""The layout of the records that the kernel side writes and the daemon reads.

The C structs and the formats of Python's struct module are made from it.
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
"""Bytes of a command line that are read."""
PATTERN_WORDS: Final = 4
"""Words of 8 bytes at the start of a file name that are compared with a prefix."""
PATTERN_MAX: Final = 16
"""How many prefixes `match.prefixes` and `match.exclude` may have, each."""
OTHERS: Final = 0xFFFFFFFF
"""The process ID of all processes that have no row of their own in the statistics."""
CAPTURE_MAX: Final = 16384
"""Bytes of content that a record can have."""
ADDRESS_MAX: Final = 128
"""Bytes of a socket address that are read: sizeof(struct sockaddr_storage)."""

PARENTS_MAX: Final = 8
"""Ancestors in an image record: so many `struct qmon_parent` follow its members."""
COMM_SIZE: Final = 16

C_TYPES: Final = {"u16": "H", "u32": "I", "s32": "i", "u64": "Q"}
"""The letter of a C type in Python's struct module."""

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
    """Return a layout's format for the struct module; its members are aligned without padding."""
    return Struct("=" + "".join(C_TYPES[ctype] for _, ctype in layout))


RECORD_FORMAT: Final = layout_format(RECORD)
IMAGE_FORMAT: Final = layout_format(IMAGE)
PARENT_FORMAT: Final = Struct(f"=I{COMM_SIZE}s")


class Flag:
    """Bits of a record's `flags`."""

    TRUNCATED: Final = 1  # the data were cut
    FAULT: Final = 2  # a page of the data could not be read
    COUNTED: Final = 4  # the kernel side counted it as seen: it must become a line
    INTERPRETED: Final = 8  # an image that binfmt_misc or a #! line started, not its own name
    WITHHELD: Final = 16  # the text is left out; set by the encoder, not the kernel side
