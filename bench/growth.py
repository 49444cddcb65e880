"""How the cost of watching grows, with the number of guests and with what is captured."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from common import cpu, qmond, settle, temporary, totals

GUESTS = (1, 4, 16)
CAPTURES = (0, 256, 4096)


def together(command: list[str], guests: int) -> float:
    """Return how many seconds some guests take that run at once."""
    began = time.monotonic()
    for process in [subprocess.Popen(command) for _ in range(guests)]:
        process.wait()
    return time.monotonic() - began


def row(label: str, command: list[str], guests: int, **config: object) -> str:
    """Return a row of the table: unwatched and watched, in turns, twice."""
    bare, watched = [], []
    for _ in range(2):
        bare.append(together(command, guests))
        with temporary() as folder:
            with qmond(folder, **config) as process:
                settle(process.pid)
                before = cpu(process.pid)
                watched.append(together(command, guests))
                settle(process.pid)
                spent = cpu(process.pid) - before
            rows = totals(folder).values()
    written, lost = (sum(row[key] for row in rows) for key in ("written", "lost"))
    times = min(watched) / min(bare)
    each = spent / written * 1e6
    return f"| {label} | {min(bare):.2f} s | {times:.1f} | {written} | {lost} | {each:.2f} µs |"


def print_growth(storm: Path, writes: int) -> None:
    """Print both tables; each guest writes without a pause."""
    head = "| unwatched | slowdown | delivered | lost | CPU per event |\n|---|---|---|---|---|---|"
    start = ["qemu-aarch64-static", str(storm)]
    print(f"\n## By number of guests\n\n{writes:,} writes in all.\n\n| guests {head}")
    for guests in GUESTS:
        print(row(str(guests), [*start, str(writes // guests)], guests), flush=True)
    print(
        "\n## By size of the captured content\n\nWrites of 4,096 bytes.\n\n| `capture.bytes` "
        + head
    )
    for capture in CAPTURES:
        config = {"capture": {"bytes": capture}}
        print(row(str(capture), [*start, str(writes // 5), "4096"], 1, **config), flush=True)
