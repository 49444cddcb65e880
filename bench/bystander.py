"""What it costs a process that is not watched when others are.

In turns, in one run: nobody watches, qmond watches (with a guest whose allocations it counts),
nobody, the peer watches. Nanoseconds a call, the median of all turns.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

from common import build, peer, qmond, temporary

CALLS = ("getppid", "write to /dev/null", "malloc + free")
WATCHERS = ("nobody", "qmond", "peer")


@contextlib.contextmanager
def watching(watcher: str) -> Iterator[None]:
    """Have a watcher at work, and a guest that it watches with every probe that it has."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(temporary())
        if watcher == "qmond":
            stack.enter_context(qmond(folder))
        elif watcher == "peer":
            stack.enter_context(peer(folder))
        guest = build("idle", "aarch64-linux-gnu-gcc", folder)
        command = ["qemu-aarch64", str(guest)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None  # noqa: S101 - for the type checker
            assert process.stdin is not None  # noqa: S101
            process.stdout.read(1)
            try:
                yield
            finally:
                process.stdin.close()


def measure(program: Path) -> list[float]:
    """Return nanoseconds for each of CALLS."""
    out = subprocess.run([program], capture_output=True, check=True, text=True).stdout
    return [float(word) for word in out.split()]


def print_bystander(rounds: int) -> None:
    """Measure, and print the table."""
    found: dict[str, list[list[float]]] = {watcher: [] for watcher in WATCHERS}
    with temporary() as folder:
        program = build("bystander", "gcc", folder)
        for _ in range(rounds):
            for watcher in ("nobody", "qmond", "nobody", "peer"):
                with watching(watcher):
                    found[watcher].append(measure(program))
    print("\n## A process that is not watched\n")
    print("| call of a native process | no watcher | qmond | more | peer | more |")
    print("|---|---|---|---|---|---|")
    for at, call in enumerate(CALLS):
        ns = {w: statistics.median(row[at] for row in rows) for w, rows in found.items()}
        bare = ns["nobody"]
        cells = [f"{bare:.0f} ns"]
        for watcher in ("qmond", "peer"):
            cells += [f"{ns[watcher]:.0f} ns", f"{ns[watcher] - bare:+.0f} ns"]
        print(f"| {call} | {' | '.join(cells)} |")
