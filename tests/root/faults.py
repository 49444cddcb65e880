"""What goes wrong with a log, made to happen while guests write lines that say which one each is.

    python tests/root/faults.py --out docs/faults.md

A guest's lines that are neither in the log nor counted as lost are uncounted; there must be none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Qmond, builder, start_qmond, wait_until
from report import Report
from stock import ORDINARY, Stock

_LINES = 60_000
_COLUMNS = (
    "fault", "written", "in the log", "counted", "uncounted", "twice", "torn", "recovers",
    "messages of qmond",
)  # fmt: skip
_ABOUT = """\
From one run of `make faults`, with a real daemon and real guests. Guests write numbered lines while
the fault happens, so that each line can be searched in the log. `counted` is the number of lines in
LOST events with stage `log`. `uncounted` lines are neither in the log nor counted. `twice` and
`torn` are lines that are in the log twice, or incomplete. `recovers` says whether the daemon writes
the log again after the fault.
"""
_SMALL = {"size": "256K"}


@dataclass
class Row:
    """What became of the lines of a fault's guests."""

    written: int
    logged: int
    counted: int
    twice: int
    torn: int
    recovered: bool
    said: list[str]

    @property
    def uncounted(self) -> int:
        """Lines that are neither in the log nor told as lost."""
        return self.written - self.logged - self.counted

    @property
    def is_right(self) -> bool:
        """Whether nothing is uncounted, there twice or torn, and the log goes on."""
        wrong = self.uncounted, self.twice, self.torn
        return not any(wrong) and self.recovered and self.written > 0


@dataclass
class Trial:
    """One fault: a daemon, its guests, and what is known of them."""

    folder: Path
    guest: Path
    kills: int
    stock: Stock | None
    daemon: Qmond = field(init=False)
    counts: dict[int, int] = field(default_factory=dict)
    elsewhere: list[Path] = field(default_factory=list)
    """Files beside the log's own that have lines of it."""
    removed: list[Path] = field(default_factory=list)
    """What was in files that are gone: some of it is in the log once more."""

    @property
    def interpreter(self) -> Path:
        """One that nobody else has guests of: all that is counted is this trial's."""
        path = self.folder / "faults-qemu"
        if not path.exists():
            shutil.copy("/usr/bin/qemu-aarch64-static", path)
        return path

    def start(self, directory: Path, *, patch: str = "", **log: Any) -> None:
        """Start the daemon, or the next one, with what is in the descriptor store."""
        stored = self.daemon.stored if hasattr(self, "daemon") else None
        settings = {"dir": str(directory), "compress": "none", "min_free": 0} | log
        events = ["START", "END", "LOST", "EXEC", "WRITE", "EXIT"]
        config = {
            "log": settings,
            "ring": ORDINARY,
            "events": events,
            "match": {"prefixes": [self.interpreter.name]},
        }
        self.daemon = start_qmond(self.folder, config, stored=stored, patch=patch, stock=self.stock)

    @contextlib.contextmanager
    def storm(self, lines: int = _LINES) -> Iterator[subprocess.Popen[bytes]]:
        """Have a guest write as many lines, beside what the caller does."""
        with subprocess.Popen([self.interpreter, self.guest, str(lines)]) as process:
            self.counts[process.pid] = lines
            yield process
            process.wait(120)

    def settle(self) -> None:
        """Wait until the daemon has taken all that there is, and looked after its log."""
        wait_until(lambda: self.daemon.status()["ring"]["used"] == 0)
        time.sleep(1.2)

    def failing(self) -> bool:
        """Whether the daemon says that its log cannot be written."""
        return bool(self.daemon.status()["log"]["failing"])

    def end(self) -> Row:
        """Have one more guest write, stop, and see where each line is."""
        self.settle()
        with self.storm(1000) as last:
            pass
        self.settle()
        wait_until(lambda: not self.failing())
        self.daemon.stopped = True
        self.daemon.process.terminate()
        if self.daemon.process.wait(60) != 0:
            raise AssertionError((self.folder / "stderr").read_text())
        found: Counter[tuple[int, int]] = Counter()
        torn = counted = 0
        files = [*sorted(self.daemon.log.glob("events*.jsonl")), *self.elsewhere]
        for line in (
            line for file in files for line in file.read_bytes().splitlines(keepends=True)
        ):
            try:
                event = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                event = None
            if event is None:
                torn += 1
            elif event.get("event") == "WRITE" and event["pid"] in self.counts:
                found[event["pid"], int(event["buf"])] += 1
            elif event.get("event") == "LOST" and event["stage"] == "log":
                counted += event["by_event"].get("WRITE", 0)
        mine = sum(pid == last.pid for pid, _ in found)
        twice = found.total() - len(found)
        for line in (line for file in self.removed for line in file.read_bytes().splitlines()):
            event = json.loads(line)
            if event.get("event") == "WRITE":
                found[event["pid"], int(event["buf"])] += 1
        said = re.findall(r"qmond: (?:ERROR|WARNING): (.*)", (self.folder / "stderr").read_text())
        written = sum(self.counts.values())
        return Row(written, len(found), counted, twice, torn, mine == 1000, said)


@contextlib.contextmanager
def disk(folder: Path, *, size: str = "8M") -> Iterator[Path]:
    """Make a small file system."""
    path = folder / "disk"
    path.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", path], check=True
    )
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def full(trial: Trial) -> Iterator[Row]:
    """The disk is full (ENOSPC), and has space again later."""
    with disk(trial.folder) as small:
        trial.start(small / "log")
        filler = small / "filler"
        filler.write_bytes(bytes(5 << 20))
        with trial.storm():
            wait_until(trial.failing)
        trial.settle()
        filler.unlink()
        yield trial.end()


def short(trial: Trial) -> Iterator[Row]:
    """Less than `log.min_free` is left, with no old file to remove; later there is space."""
    with disk(trial.folder, size="64M") as small:
        trial.start(small / "log", min_free="32M")
        filler = small / "filler"
        filler.write_bytes(bytes(40 << 20))
        wait_until(lambda: Path(small / "log/events.jsonl").exists())
        time.sleep(1.2)
        with trial.storm():
            wait_until(trial.failing)
        trial.settle()
        filler.unlink()
        time.sleep(1.2)
        yield trial.end()


def immutable(trial: Trial) -> Iterator[Row]:
    """The file becomes immutable (chattr +i), and writable again later."""
    with loop_device(trial.folder) as place:
        trial.start(place / "log")
        with trial.storm(3 * _LINES):
            wait_until(lambda: trial.daemon.status()["counters"].get("WRITE"))
            subprocess.run(["chattr", "+i", place / "log/events.jsonl"], check=True)
            try:
                wait_until(trial.failing)
                trial.settle()
            finally:
                subprocess.run(["chattr", "-i", place / "log/events.jsonl"], check=True)
        yield trial.end()


def broken(trial: Trial) -> Iterator[Row]:
    """Every third write ends with EIO in the middle of a line (simulated)."""
    trial.start(trial.folder / "log", patch=HALF_A_LINE)
    with trial.storm():
        pass
    yield trial.end()


HALF_A_LINE = """
import errno, os
from qmond.log import writer as eventlog
class Disk:
    calls = 0
    def __getattr__(self, name):
        return getattr(os, name)
    def write(self, fd, lines):
        Disk.calls += len(lines) > 10_000
        if Disk.calls % 3 or len(lines) < 10_000 or Disk.calls > 9:
            return os.write(fd, lines)
        os.write(fd, bytes(lines)[: len(lines) * 2 // 3 - 1])
        raise OSError(errno.EIO, os.strerror(errno.EIO))
eventlog.os = Disk()
"""
"""No disk here fails in the middle of a write, so this one is played."""


@contextlib.contextmanager
def loop_device(folder: Path, size: str = "100M") -> Iterator[Path]:
    """Make a file system in a sparse file, without a journal, which takes long to make."""
    image, place = folder / "image", folder / "place"
    place.mkdir()
    subprocess.run(["truncate", "--size", size, image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def killed(trial: Trial) -> Iterator[Row]:
    """The daemon is killed (kill -9) again and again, at any moment, while files are rotated."""
    log = trial.folder / "log"
    trial.start(log, rotate=_SMALL)
    with trial.storm(trial.kills * 6000):
        for _ in range(trial.kills):
            time.sleep(random.uniform(0.01, 0.2))  # noqa: S311 - any moment will do
            trial.daemon.process.kill()
            trial.daemon.process.wait()
            trial.start(log, rotate=_SMALL)
    yield trial.end()


def rotated(trial: Trial) -> Iterator[Row]:
    """The log is rotated every 100 ms."""
    trial.start(trial.folder / "log")
    with trial.storm(2 * _LINES) as guest:
        while guest.poll() is None:
            trial.daemon.ctl("rotate")
            time.sleep(0.1)
    yield trial.end()


def removed(trial: Trial) -> Iterator[Row]:
    """The log directory is removed with its files."""
    log = trial.folder / "log"
    trial.start(log)
    with trial.storm():
        time.sleep(0.3)
        with (log / "events.jsonl").open("rb") as file:
            shutil.rmtree(log)
            time.sleep(2.5)  # the daemon has noticed
            trial.removed = [trial.folder / "removed.jsonl"]
            trial.removed[0].write_bytes(file.read())
    yield trial.end()


def renamed(trial: Trial) -> Iterator[Row]:
    """Another program renames the file, and sends SIGUSR1."""
    log = trial.folder / "log"
    trial.start(log)
    with trial.storm() as guest:
        for number in range(5):
            time.sleep(0.1)
            trial.elsewhere.append(trial.folder / f"{number}.jsonl")
            (log / "events.jsonl").rename(trial.elsewhere[-1])
            trial.daemon.process.send_signal(10)
            wait_until((log / "events.jsonl").exists)
        assert guest
    yield trial.end()


def stepped(trial: Trial) -> Iterator[Row]:
    """The wall clock is set back an hour, then forward again, with a rotation each time."""
    trial.start(trial.folder / "log")

    def step(seconds: float) -> None:
        time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)
        trial.daemon.ctl("rotate")

    with trial.storm():
        time.sleep(0.2)
        trial.daemon.ctl("rotate")
        step(-3600)
        try:
            time.sleep(0.2)
            trial.daemon.ctl("rotate")
        finally:
            step(3600)
    row = trial.end()
    numbers = [event["seq"] for event in trial.daemon.events()]
    row.recovered = row.recovered and numbers == sorted(numbers)  # in their files' order
    yield row


Fault = Callable[[Trial], Iterator[Row]]
FAULTS: tuple[Fault, ...] = (
    full,
    short,
    immutable,
    broken,
    killed,
    rotated,
    removed,
    renamed,
    stepped,
)


def suffer(
    fault: Fault, folder: Path, guest: Path, kills: int = 50, stock: Stock | None = None
) -> Row:
    """Have one fault happen."""
    folder.mkdir()
    trial = Trial(folder, guest, kills, stock)
    try:
        (row,) = fault(trial)
    finally:
        if hasattr(trial, "daemon") and trial.daemon.process.poll() is None:
            trial.daemon.process.kill()
            trial.daemon.process.wait()
    return row


def main() -> int:
    """Write the table, and say whether all is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", help="their names; all where there is none")
    parser.add_argument("--out", type=Path, help="the file for the table, otherwise printed")
    options = parser.parse_args()
    report, right = Report("Faults", _ABOUT, _COLUMNS), True
    with tempfile.TemporaryDirectory(prefix="qmond-faults-") as folder:
        guest = builder(Path(folder))("count", "aarch64")
        for fault in FAULTS:
            if options.faults and fault.__name__ not in options.faults:
                continue
            row = suffer(fault, Path(folder) / fault.__name__, guest)
            said = "; ".join(dict.fromkeys(re.sub(r"/\S*/", "…/", text) for text in row.said))
            figures = row.written, row.logged, row.counted, row.uncounted, row.twice, row.torn
            title = (fault.__doc__ or "").rstrip(".")
            report.add(title, *figures, "yes" if row.recovered else "no", said)
            right = right and row.is_right
    report.write(options.out)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
