"""What watching costs guests, the host and everybody else: `make bench`.

qmond, the peer and `strace -f` watch the same guests in turns, in one run, several times. Prints
tables in Markdown; times are medians, losses and memory the worst. A watcher's CPU time and memory
(PSS) are those of all its processes.
"""

from __future__ import annotations

import argparse
import contextlib
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

from bystander import print_bystander
from common import build, cpu, memory, peer, qmond, settle, temporary, totals
from growth import print_growth
from plot import bars

from qmond.client import Client

_ABOUT = """
The peer is the same monitor as a bpftrace script, `bench/peer.bt`. Times are medians, losses and
memory the worst of all rounds. CPU time and memory (PSS) are those of all processes of a watcher.
"""
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
        result.memory.append(memory(process.pid))
        stack.close()
        if watcher == "qmond":
            rows = totals(folder).values()
            result.delivered.append(sum(row["written"] for row in rows))
            result.lost.append(sum(row["lost"] for row in rows))
        else:
            lines = (folder / "peer.jsonl").read_bytes().count(b"\n")
            said = (folder / "stderr").read_text() + (folder / "peer.jsonl").read_text("latin-1")
            lost = sum(map(int, re.findall(r"Lost (\d+) events", said)))
            result.delivered.append(lines)
            result.lost.append(lost)


def compare(title: str, command: list[str], rounds: int, straced: list[str]) -> dict[str, float]:
    """Print the table of one guest; returns by watcher how many times as long it takes.

    `straced` is what strace watches, where it is too slow for the same.
    """
    results = {name: Result() for name in ("nobody", "qmond", "peer", "strace")}
    for _ in range(rounds):
        for watcher, result in results.items():
            watched(watcher, straced if watcher == "strace" else command, result)
    bare = statistics.median(results["nobody"].times)
    print(f"\n## {title}\n")
    print("| watched by | time | slowdown | delivered | lost | CPU per event | memory |")
    print("|---|---|---|---|---|---|---|")
    ratios = {}
    for watcher, result in results.items():
        took = statistics.median(result.times)
        less = watcher == "strace" and straced != command
        scale = int(command[-1]) / int(straced[-1]) if less else 1
        ratios[watcher] = took * scale / bare
        cells = [f"{took * scale:.2f} s", f"{took * scale / bare:.1f}"]
        if result.delivered:
            each = [spent / (n or 1) for spent, n in zip(result.cpu, result.delivered, strict=True)]
            cells += [f"{statistics.median(result.delivered):.0f}", str(max(result.lost))]
            cells += [f"{statistics.median(each) * 1e6:.2f} µs", f"{max(result.memory) // 1024} MB"]
        else:
            cells += ["", "", "", ""]
        note = f" (extrapolated from {straced[-1]} writes)" if less else ""
        print(f"| {watcher}{note} | {' | '.join(cells)} |", flush=True)
    del ratios["nobody"]
    return ratios


def large(storm: list[str]) -> None:
    """Print what becomes of a storm that is ten times as long."""
    with temporary() as folder:
        with qmond(folder) as process:
            settle(process.pid)
            before = memory(process.pid)
            took = run([*storm, "10000000"], folder)
            settle(process.pid)
            grown = memory(process.pid) - before
        row = totals(folder)["WRITE"]
    print("\n## 10,000,000 writes without a pause\n")
    print(
        f"{took:.1f} s; seen {row['seen']}, written {row['written']}, lost {row['lost']};", end=" "
    )
    print(f"the daemon's memory grew by {grown} kB.", flush=True)


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
    """Print how long it takes from an event to a client, alone and beside one that never reads."""
    print("\n## Time from an event to a client, at 1,000 events per second\n")
    for beside in (False, True):
        late: list[float] = []
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(temporary())
            stack.enter_context(qmond(folder))
            if beside:
                stack.enter_context(Client(folder / "qmond.sock")).tail()
            stack.enter_context(receiving(folder / "qmond.sock", late))
            run(["qemu-aarch64-static", str(guest), str(seconds)], folder)
            time.sleep(0.2)
        late.sort()
        p50, p99 = late[len(late) // 2], late[len(late) * 99 // 100]
        who = "beside a client that never reads" if beside else "alone"
        print(f"- {who}: {len(late)} events, p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")


def idle(seconds: int) -> None:
    """Print what the daemon does where there is nothing to do."""

    def switches(pid: int) -> int:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        words = [re.findall(r"ctxt_switches:\s+(\d+)", (t / "status").read_text()) for t in tasks]
        return sum(int(word) for found in words for word in found)

    with temporary() as folder, qmond(folder) as process:
        time.sleep(20)  # until the looker that begins has ended, since nobody asks it
        before, woken = cpu(process.pid), switches(process.pid)
        time.sleep(seconds)
        spent, woken = cpu(process.pid) - before, switches(process.pid) - woken
    print("\n## An idle host\n")
    print(f"{spent / seconds * 100:.3f} % of a CPU, {woken / seconds:.1f} wake-ups per second.")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each has its turn")
    parser.add_argument("--writes", type=int, default=1_000_000, help="of the storm")
    parser.add_argument("--plot", type=Path, help="where to draw the times")
    options = parser.parse_args()
    print("# Measurements\n\nFrom one run of `make bench`:", end=" ")
    print(
        f"{model()}, {os.cpu_count()} CPUs, kernel {os.uname().release}; {options.rounds} rounds."
    )
    print(_ABOUT, end="")
    ratios = {}
    with temporary() as folder:
        compiler = "aarch64-linux-gnu-gcc"
        guests = {name: build(name, compiler, folder) for name in ("storm", "mixed", "paced")}
        start = ["qemu-aarch64-static"]
        storm = [*start, str(guests["storm"])]
        title = f"{options.writes:,} writes without a pause"
        command = [*storm, str(options.writes)]
        ratios[title] = compare(title, command, options.rounds, [*storm, str(STRACED)])
        mixed = [*start, str(guests["mixed"]), "300"]
        title = "A guest that opens, reads, writes and forks"
        ratios[title] = compare(title, mixed, options.rounds, mixed)
        busybox = Path(sys.executable).parent.parent / "guests/busybox-arm64"
        source = folder / "source"
        source.write_bytes(os.urandom(1 << 20) * 4)
        real = [*start, str(busybox)]
        guest = " ".join(real)  # in the script, too: a host may have no binfmt_misc
        real += ["sh", "-c", f"{guest} gzip -c {source} | {guest} md5sum"]
        title = "Debian's busybox for arm64 compresses 4 MB"
        ratios[title] = compare(title, real, options.rounds, real)
        large(storm)
        print_growth(guests["storm"], options.writes)
        latency(guests["paced"], 10)
    idle(20)
    print_bystander(options.rounds)
    if options.plot:
        options.plot.write_text(bars(ratios))


def model() -> str:
    """Return what CPU this is."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else os.uname().machine


if __name__ == "__main__":
    main()
