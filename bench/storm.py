"""What watching costs a guest and the host: `python bench/storm.py`.

qmond, the peer and `strace -f` watch the same guests in turns, in one run, several times. Prints
tables in Markdown; times are medians, losses and memory the worst.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common import build, end_event, peer, qmond, temporary

from qmond.client import Client

TICK = os.sysconf("SC_CLK_TCK")
STRACED = 20_000
"""Writes of the storm under strace, which takes a hundred times as long."""


@dataclass
class Result:
    """One watcher with one guest, over all rounds."""

    times: list[float] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


def run(command: list[str], folder: Path) -> float:
    """Return how many seconds a guest takes."""
    began = time.monotonic()
    with (folder / "guest").open("wb") as out:
        subprocess.run(command, stdout=out, stderr=out, check=True)
    return time.monotonic() - began


def cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident(pid: int) -> int:
    """Return the most memory that a process has had, in kB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


def settle(pid: int) -> None:
    """Wait until a watcher has caught up: for half a second it does nothing."""
    before = -1.0
    while (now := cpu(pid)) != before:
        before = now
        time.sleep(0.5)


def watched(watcher: str, command: list[str], result: Result) -> None:
    """Run a guest under a watcher, and note what it cost and what came out."""
    with temporary() as folder, contextlib.ExitStack() as stack:
        if watcher == "nobody":
            result.times.append(run(command, folder))
            return
        if watcher == "strace":
            straced = ["strace", "-f", "-o", str(folder / "trace"), *command]
            result.times.append(run(straced, folder))
            return
        start = qmond if watcher == "qmond" else peer
        process = stack.enter_context(start(folder))
        settle(process.pid)
        before = cpu(process.pid)
        result.times.append(run(command, folder))
        settle(process.pid)
        result.cpu.append(cpu(process.pid) - before)
        result.memory.append(resident(process.pid))
        stack.close()
        if watcher == "qmond":
            rows = json.loads(json.dumps(end_event(folder)["totals"])).values()
            result.delivered.append(sum(row["written"] for row in rows))
            result.lost.append(sum(row["lost"] for row in rows))
        else:
            lines = (folder / "peer.jsonl").read_bytes().count(b"\n")
            said = (folder / "stderr").read_text() + (folder / "peer.jsonl").read_text("latin-1")
            lost = sum(map(int, re.findall(r"Lost (\d+) events", said)))
            result.delivered.append(lines)
            result.lost.append(lost)


def compare(title: str, command: list[str], rounds: int, straced: list[str] | None = None) -> None:
    """Print the table of one guest."""
    results = {name: Result() for name in ("nobody", "qmond", "peer", "strace")}
    for _ in range(rounds):
        for watcher, result in results.items():
            if watcher == "strace" and straced is None:
                continue
            watched(watcher, straced or command if watcher == "strace" else command, result)
    bare = statistics.median(results["nobody"].times)
    print(f"\n## {title}\n")
    print("| watched by | time | times as long | delivered | lost | CPU an event | memory |")
    print("|---|---|---|---|---|---|---|")
    for watcher, result in results.items():
        if not result.times:
            continue
        took = statistics.median(result.times)
        scale = int(command[-1]) / int(straced[-1]) if watcher == "strace" and straced else 1
        cells = [f"{took * scale:.2f} s", f"{took * scale / bare:.1f}"]
        if result.delivered:
            each = [spent / (n or 1) for spent, n in zip(result.cpu, result.delivered, strict=True)]
            cells += [f"{statistics.median(result.delivered):.0f}", str(max(result.lost))]
            cells += [f"{statistics.median(each) * 1e6:.2f} µs", f"{max(result.memory) // 1024} MB"]
        else:
            cells += ["", "", "", ""]
        note = f" (from {straced[-1]} writes)" if scale != 1 and straced else ""
        print(f"| {watcher}{note} | {' | '.join(cells)} |", flush=True)


# ---- latency, and idleness ---------------------------------------------------------------------


@contextlib.contextmanager
def receiving(path: Path, late: list[float]) -> Iterator[None]:
    """Have a client note how long after their moment lines arrive, in seconds."""
    with Client(path) as client:
        lines = client.tail(events=["WRITE"])

        def receive() -> None:
            for line in lines:
                now = time.monotonic()
                late.append(now - float(line[6 : line.index(b",")]))

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        yield
    thread.join(5)


def latency(guest: Path, seconds: int) -> None:
    """Print how long it takes from an event to a client."""
    late: list[float] = []
    with temporary() as folder, qmond(folder), receiving(folder / "qmond.sock", late):
        run(["qemu-aarch64-static", str(guest), str(seconds)], folder)
        time.sleep(0.2)
    late.sort()
    p50, p99 = late[len(late) // 2], late[len(late) * 99 // 100]
    print("\n## From event to client, at 1,000 events a second\n")
    print(f"{len(late)} events: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms.")


def idle(seconds: int) -> None:
    """Print what the daemon does where there is nothing to do."""

    def switches(pid: int) -> int:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        words = [re.findall(r"ctxt_switches:\s+(\d+)", (t / "status").read_text()) for t in tasks]
        return sum(int(word) for found in words for word in found)

    with temporary() as folder, qmond(folder) as process:
        settle(process.pid)
        before, woken = cpu(process.pid), switches(process.pid)
        time.sleep(seconds)
        spent, woken = cpu(process.pid) - before, switches(process.pid) - woken
    print("\n## An idle host\n")
    print(f"{spent / seconds * 100:.3f} % of a core, {woken / seconds:.1f} wake-ups a second.")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each has its turn")
    parser.add_argument("--writes", type=int, default=1_000_000, help="of the storm")
    options = parser.parse_args()
    kernel, cpus = os.uname().release, os.cpu_count()
    print(f"# Measurements\n\nKernel {kernel}, {cpus} CPUs, Python {sys.version.split()[0]};")
    print(f"{options.rounds} rounds, in turns. Made by `make bench`.")
    with temporary() as folder:
        compiler = "aarch64-linux-gnu-gcc"
        guests = {name: build(name, compiler, folder) for name in ("storm", "mixed", "paced")}
        start = ["qemu-aarch64-static"]
        storm = [*start, str(guests["storm"])]
        compare(
            f"A guest that writes {options.writes:,} times as fast as it can",
            [*storm, str(options.writes)],
            options.rounds,
            [*storm, str(STRACED)],
        )
        mixed = [*start, str(guests["mixed"]), "300"]
        compare("A guest that opens, reads, writes and forks", mixed, options.rounds, mixed)
        busybox = Path(sys.executable).parent.parent / "guests/busybox-arm64"
        source = folder / "source"
        source.write_bytes(os.urandom(1 << 20) * 4)
        script = f"{busybox} gzip -c {source} | {busybox} md5sum"
        real = [*start, str(busybox), "sh", "-c", script]
        compare("Debian's busybox for arm64 compresses 4 MB", real, options.rounds, real)
        latency(guests["paced"], 10)
    idle(20)


if __name__ == "__main__":
    main()
