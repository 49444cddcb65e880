"""The possible values of some keys, each with its meaning."""

from __future__ import annotations

from typing import Final

__all__ = ["ADVICE", "ALLOCATIONS", "LAUNCHES", "OTHER_ADVICE"]

LAUNCHES: Final = {
    "direct": "somebody executed the interpreter by its name",
    "binfmt": "somebody executed the guest, and binfmt_misc put the interpreter in front of it",
    "nested": "a process under watch executed it",
}
"""How the program of a process was started; a forked child has the word of its parent."""

ALLOCATIONS: Final = {
    "counted": "by probes in its C library, once that is mapped",
    "off": "switched off in the configuration",
    "native": "it runs no interpreter",
    "unsafe": "its guest could run the probed library as its own code, and would die of the probe",
    "static": "its interpreter is linked statically: there is no C library to probe",
    "refused": "the kernel refuses such probes, or the daemon sees other process IDs than it",
}
"""Whether a process' malloc and free are counted, and if not, why."""

OTHER_ADVICE: Final = "MADV_OTHER"
"""The name of all other advices of madvise(2)."""

ADVICE: Final = {
    0: "MADV_NORMAL",
    1: "MADV_RANDOM",
    2: "MADV_SEQUENTIAL",
    3: "MADV_WILLNEED",
    4: "MADV_DONTNEED",
    8: "MADV_FREE",
    9: "MADV_REMOVE",
    10: "MADV_DONTFORK",
    11: "MADV_DOFORK",
    12: "MADV_MERGEABLE",
    13: "MADV_UNMERGEABLE",
    14: "MADV_HUGEPAGE",
    15: "MADV_NOHUGEPAGE",
    16: "MADV_DONTDUMP",
    17: "MADV_DODUMP",
    18: "MADV_WIPEONFORK",
    19: "MADV_KEEPONFORK",
    20: "MADV_COLD",
    21: "MADV_PAGEOUT",
    22: "MADV_POPULATE_READ",
    23: "MADV_POPULATE_WRITE",
    24: "MADV_DONTNEED_LOCKED",
    25: "MADV_COLLAPSE",
    100: "MADV_HWPOISON",
    101: "MADV_SOFT_OFFLINE",
    102: "MADV_GUARD_INSTALL",
    103: "MADV_GUARD_REMOVE",
}
"""From Linux 6.18's asm-generic/mman-common.h."""
