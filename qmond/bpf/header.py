"""The C header of the kernel side, made from the tables of events and calls."""

from __future__ import annotations

from typing import Final

from qmond.events.calls import CALL, HANDLERS, LIMIT
from qmond.events.records import (
    ADDRESS_MAX,
    ARGV_MAX,
    CAPTURE_MAX,
    COMM_SIZE,
    HEAD,
    IMAGE,
    OTHERS,
    PARENTS_MAX,
    PATTERN_MAX,
    PATTERN_WORDS,
    RECORD,
    Flag,
    Layout,
)
from qmond.events.table import EVENTS

__all__ = [
    "BUCKET",
    "BUCKET_KEY",
    "COUNTER",
    "HITS",
    "ORIGINS",
    "PID_LIMIT",
    "SETTINGS",
    "STATISTIC",
    "STATISTIC_KEY",
    "STRUCTS",
    "TREES",
    "TREE_SHIFT",
    "URGENT_SIZE",
    "header",
]

PID_LIMIT: Final = 1 << 22
"""No process ID reaches it: Linux' PID_MAX_LIMIT on 64-bit hosts."""
ORIGINS: Final = {"exec": 1, "fork": 2, "procfs": 3}
"""How a process came under watch: the low bits of its value in the tracked map."""
TREE_SHIFT: Final = 2
TREES: Final = 1 << 14
"""Above them is the number of its tree, which is one by chance below this."""

SETTINGS: Final[Layout] = (
    ("mask", "u64"),  # bit N: event N is wanted
    ("capture", "u32"),  # bytes of content a record carries
    ("generation", "u32"),  # of the statistics: one more each interval
    ("budget", "u64"),  # allocations a second that a process may be counted for
    ("prefixes", "u32"),  # how many patterns of each kind there are
    ("excludes", "u32"),
)
"""Followed by the limits, a u64 an event, and `PATTERN_MAX` prefixes and as many excludes."""

COUNTER: Final[Layout] = (("seen", "u64"), ("lost", "u64"), ("suppressed", "u64"))
BUCKET_KEY: Final[Layout] = (("pid", "u32"), ("event", "u32"))
BUCKET: Final[Layout] = (("spent", "u64"), ("suppressed", "u64"))
PROBED_MAX: Final = 16384
"""How many processes can have allocation probes at once."""
URGENT_SIZE: Final = PROBED_MAX * 16
"""Bytes of the ring of urgent news: one of each of them has room."""
HITS: Final[Layout] = (("since", "u64"), ("count", "u64"), ("told", "u64"))
STATISTIC_KEY: Final[Layout] = (("generation", "u32"), ("pid", "u32"))
STATISTIC: Final[Layout] = (
    ("mmaps", "u64"),
    ("max_pages", "u64"),
    ("allocs", "u64"),
    ("frees", "u64"),
)

STRUCTS: Final = {
    "qmon_head": HEAD,
    "qmon_record": RECORD,
    "qmon_call": CALL,
    "qmon_counter": COUNTER,
    "qmon_statistic_key": STATISTIC_KEY,
    "qmon_statistic": STATISTIC,
    "qmon_hits": HITS,
    "qmon_bucket_key": BUCKET_KEY,
    "qmon_bucket": BUCKET,
}
"""Every struct that both sides know, by its C name."""


def _struct(name: str, layout: Layout, extra: str = "") -> str:
    members = "".join(f"\t{ctype} {member};\n" for member, ctype in layout)
    return f"struct {name} {{\n{members}{extra}}};\n"


def header() -> str:
    """Return the header's text; it needs the types u16, u32 and u64 to be there."""
    lives = sum(1 << at for at, event in enumerate(EVENTS) if event.state)
    more = (
        f"\tu64 limit[{len(EVENTS)}];\n"
        f"\tstruct qmon_pattern prefix[{PATTERN_MAX}];\n"
        f"\tstruct qmon_pattern exclude[{PATTERN_MAX}];\n"
    )
    flags = {name: value for name, value in vars(Flag).items() if name.isupper()}
    defines = {
        "ADDRESS_MAX": ADDRESS_MAX,
        "ARGV_MAX": ARGV_MAX,
        "CAPTURE_MAX": CAPTURE_MAX,
        "CALL_LIMIT": LIMIT,
        "PATTERN_WORDS": PATTERN_WORDS,
        "PATTERN_MAX": PATTERN_MAX,
        "PARENTS_MAX": PARENTS_MAX,
        "PID_LIMIT": PID_LIMIT,
        "PROBED_MAX": PROBED_MAX,
        "OTHERS": f"{OTHERS}U",
        "EVENT_COUNT": len(EVENTS),
        "LIVES": f"{lives}ULL",
        "TREES": TREES,
        "TREE_SHIFT": TREE_SHIFT,
        "SHARED": "(1ULL << 16)",  # flags of a record's share, above those of the ring buffer
        "SHARE_LIFE": "(1ULL << 17)",
        "SHARE_OWN": "(1ULL << 18)",
        "SHARE_TREE": 32,
        "SHARE_USER": 48,
        "HANDLER_COUNT": len(HANDLERS),
        **{f"EVENT_{event.name}": number for number, event in enumerate(EVENTS)},
        **{f"HANDLER_{name.upper()}": number for number, name in enumerate(HANDLERS)},
        **{f"ORIGIN_{name.upper()}": value for name, value in ORIGINS.items()},
        **{f"FLAG_{name}": value for name, value in flags.items()},
    }
    return "\n".join(
        [
            "".join(f"#define {name} {value}\n" for name, value in defines.items()),
            *(_struct(name, layout) for name, layout in STRUCTS.items()),
            _struct("qmon_parent", (("pid", "u32"),), f"\tchar comm[{COMM_SIZE}];\n"),
            _struct("qmon_image", IMAGE, f"\tstruct qmon_parent parents[{PARENTS_MAX}];\n"),
            _struct("qmon_pattern", (), "\tu64 text[PATTERN_WORDS];\n\tu64 mask[PATTERN_WORDS];\n"),
            _struct("qmon_settings", SETTINGS, more),
        ]
    )
