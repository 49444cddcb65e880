"""What the measurements share: the watchers that are compared, and the guests they watch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

HERE = Path(__file__).parent
GUESTS = (HERE / "guests", HERE.parent / "tests/root/guests")
TICK = os.sysconf("SC_CLK_TCK")
PATIENCE = 60
"""Seconds until a watcher must be ready."""


def build(name: str, compiler: str, folder: Path) -> Path:
    """Compile a program of GUESTS, statically unless it is the host's; returns its path."""
    program = folder / f"{name}-{compiler.split('-', maxsplit=1)[0]}"
    if not program.exists():
        source = next(path for at in GUESTS if (path := at / f"{name}.c").exists())
        static = [] if compiler == "gcc" else ["-static"]
        subprocess.run([compiler, *static, "-O2", "-o", program, source], check=True)
    return program


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until something is true; raises TimeoutError with what it was."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.02)


@contextlib.contextmanager
def qmond(folder: Path, **config: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon, with its files in a folder; it is ready, and at the end it has stopped."""
    sock = folder / "qmond.sock"
    config = {"log": {"dir": str(folder / "log")}, "socket": {"path": str(sock)}, **config}
    file = folder / "qmon.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "qmond", "--config", str(file)]
    with (folder / "stderr").open("wb") as said, subprocess.Popen(command, stderr=said) as process:
        try:
            until(lambda: b"ready" in (folder / "stderr").read_bytes(), "qmond is not ready")
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


def is_attached(pid: int) -> bool:
    """Whether bpftrace has opened all its probes: it tells nobody, but for a second none is new."""
    folder = Path(f"/proc/{pid}/fd")
    before = len(list(folder.iterdir()))
    time.sleep(1)
    return before > 25 and len(list(folder.iterdir())) == before


@contextlib.contextmanager
def peer(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the peer, its output in `peer.jsonl`; it needs tracefs, which is mounted for it."""
    tracing = Path("/sys/kernel/tracing")
    mounted = (tracing / "events").exists()
    if not mounted:
        subprocess.run(["mount", "-t", "tracefs", "tracefs", tracing], check=True)
    out = folder / "peer.jsonl"
    command = ["bpftrace", "-o", str(out), str(HERE / "peer.bt")]
    environment = os.environ | {"BPFTRACE_STRLEN": "64"}
    try:
        with (
            (folder / "stderr").open("wb") as said,
            subprocess.Popen(command, stdout=said, stderr=said, env=environment) as process,
        ):
            try:
                until(lambda: is_attached(process.pid), "the peer is not ready")
                yield process
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(PATIENCE)
    finally:
        if not mounted:
            subprocess.run(["umount", tracing], check=True)


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """Give a folder for one measurement."""
    with tempfile.TemporaryDirectory(prefix="qmond-bench-") as name:
        yield Path(name)


def totals(folder: Path) -> dict[str, dict[str, int]]:
    """Return by event what a daemon that has stopped says became of it."""
    last = (folder / "log/events.jsonl").read_bytes().splitlines()[-1]
    found: dict[str, dict[str, int]] = json.loads(last)["totals"]
    return found


def family(pid: int) -> Iterator[int]:
    """Yield a process and its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                yield from family(int(child))


def cpu(pid: int) -> float:
    """Return the seconds of CPU that a process and its descendants have used."""
    used = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        used += sum(map(int, fields[11:13]))
    return used / TICK


def memory(pid: int) -> int:
    """Return the memory of a process and its descendants in kB, what they share counted once."""
    return sum(
        int(line.split()[1])
        for each in family(pid)
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )


def settle(pid: int) -> None:
    """Wait until a watcher has caught up: for half a second it does nothing."""
    before = -1.0
    while (now := cpu(pid)) != before:
        before = now
        time.sleep(0.5)
