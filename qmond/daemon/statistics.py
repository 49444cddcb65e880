"""The statistics of one interval as the values of their events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from qmond.bpf.probes import Statistic
from qmond.events.records import OTHERS

__all__ = ["sums"]

_COLUMNS: Final = {"FREE_SUM": "frees", "MMAP_SUM": "mmaps", "ALLOC_SUM": "allocs"}


def sums(
    found: Mapping[int, Statistic], partial: list[int], *, full: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each event's name and `meta`; nothing where there was nothing to count.

    `partial` has the processes whose allocations were not counted all the time. `full` adds what
    the original interface does not have.
    """
    total = sum(found.values(), Statistic())
    for name, key in _COLUMNS.items():
        count = getattr(total, key)
        incomplete = partial if name != "MMAP_SUM" else []
        if not count and not incomplete:
            continue
        meta: dict[str, Any] = {"count": count}
        if name == "MMAP_SUM":
            meta["max_pages"] = total.max_pages
        if full:
            meta["by_pid"] = {
                "others" if pid == OTHERS else str(pid): getattr(row, key)
                for pid, row in found.items()
                if getattr(row, key)
            }
            if incomplete:
                meta["partial"] = incomplete
        yield name, meta
