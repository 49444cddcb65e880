"""What the scenarios play on, and how the truth is held against what was seen."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any

from harness import PATIENCE, Qmond, end_qmond, registrar, start_qmond
from truth import CALLS, EVENTS, Call, Truth, call_of, read_strace

BUSYBOX = Path(sys.executable).parent.parent / "guests/busybox-arm64"
BUSYBOX_ARM = BUSYBOX.with_name("busybox-armhf")
ARM64 = "/usr/bin/qemu-aarch64-static"
ARM = "/usr/bin/qemu-arm-static"
RISCV64 = "/usr/bin/qemu-riscv64-static"
Event = dict[str, Any]
_SHOWN = 5


@dataclass(frozen=True)
class Row:
    """One thing that is known: entries that are the same in truth and seen are no difference."""

    what: str
    source: str
    truth: Counter[Any]
    seen: Counter[Any]

    @property
    def difference(self) -> int:
        """How many entries are in the one alone."""
        return (self.truth - self.seen).total() + (self.seen - self.truth).total()

    def __str__(self) -> str:
        """Return the first entries that have no partner."""
        unseen, untrue = self.truth - self.seen, self.seen - self.truth
        return (
            f"{self.what}: {self.truth.total()} by {self.source}, {self.seen.total()} seen; "
            f"unseen: {unseen.total()} {list(unseen.items())[:_SHOWN]}, "
            f"untrue: {untrue.total()} {list(untrue.items())[:_SHOWN]}"
        )


@dataclass(frozen=True)
class Run:
    """One run of a command, as strace and as qmond saw it."""

    truth: Truth
    events: list[Event]


@dataclass
class Stage:
    """What a scenario plays on."""

    build: Callable[[str, str], Path]
    register: Callable[[str], None]
    folder: Path
    start: Callable[[], Qmond]
    daemons: list[Qmond] = field(default_factory=list)

    @property
    def daemon(self) -> Qmond:
        """The daemon; it begins when it is asked for first."""
        if not self.daemons:
            self.daemons.append(self.start())
        return self.daemons[0]

    def scene(self, *words: object, arch: str = "aarch64") -> list[str]:
        """Return the command for a guest of scenes.c, by the static interpreter."""
        program = self.build("scenes", arch)
        return [f"/usr/bin/qemu-{arch}-static", str(program), *map(str, words)]

    def script(self, name: str, text: str) -> str:
        """Return the path of a shell script with this text."""
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def events(self, pids: Iterable[int]) -> list[Event]:
        """Return the events of processes when all have ended, an ID as often as it was used.

        What is not told in good time is missing from them: that shows as a difference.
        """
        wanted = Counter(pids)
        end = time.monotonic() + PATIENCE
        while True:
            events = [e for e in self.daemon.events() if e.get("pid", e.get("parent")) in wanted]
            ended = Counter(e["pid"] for e in events if e["event"] == "EXIT")
            if wanted <= ended or time.monotonic() > end:
                return events
            time.sleep(0.05)

    def straced(self, command: list[str], first: str, status: int = 0) -> Run:
        """Run a command under strace and qmond at once; `first` is the program that is watched."""
        assert self.daemon
        trace = self.folder / "strace"
        options = ["-f", "-s", "0", "--pidns-translation", "-o", str(trace), "-e", f"trace={CALLS}"]
        strace = ["strace", *options, *command]
        done = subprocess.run(strace, capture_output=True, timeout=60, check=False)
        assert done.returncode == status, done
        truth = read_strace(trace, first)
        return Run(truth, self.events(truth.processes))


def numbers(*lists: Iterable[object]) -> Counter[Any]:
    """Return entries as a Counter."""
    return Counter(entry for entries in lists for entry in entries)


def exits(events: Iterable[Event]) -> Counter[Any]:
    """Return what EXIT says: process, code, signal."""
    return numbers((e["pid"], e["code"], e["signal"]) for e in events if e["event"] == "EXIT")


def found(events: Iterable[Event]) -> Counter[Any]:
    """Return each process that came under watch, as often as that is told."""
    came = {"TRACK_ADOPT": "pid", "TRACK_FORK": "child"}
    return numbers(e[came[e["event"]]] for e in events if e["event"] in came)


def signals(events: Iterable[Event]) -> Counter[Any]:
    """Return the signals that were generated, by process and name."""
    return numbers(
        (e["pid"], Signals(e["sig"]).name) for e in events if e["event"] == "SIGNAL_GENERATE"
    )


def compared(run: Run, *expected: str) -> Iterator[Row]:
    """Yield a row for the processes, the exits, and each event that there was or is expected."""
    truth = run.truth
    ends = [
        (pid, code, Signals[name].value if name else None)
        for pid, (code, name) in truth.ends.items()
    ]
    yield Row("processes", "strace", numbers(truth.processes), found(run.events))
    yield Row("EXIT", "strace", numbers(ends), exits(run.events))
    seen = numbers(call_of(e) for e in run.events if e["event"] in EVENTS)
    for name in sorted({*expected, *(call[0] for call in truth.calls | seen)}):
        yield Row(name, "strace", of(name, truth.calls), of(name, seen))


def of(name: str, calls: Counter[Call]) -> Counter[Call]:
    """Return the calls of one event."""
    return Counter({call: count for call, count in calls.items() if call[0] == name})


def children_of(pid: int) -> list[str]:
    """Return a process' children, as /proc has them."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


def state_of(pid: int) -> str:
    """Return the state of a process' first thread."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextlib.contextmanager
def staged(folder: Path, build: Callable[[str, str], Path]) -> Iterator[Stage]:
    """Give a stage; its daemon is stopped in order at the end, and its books are checked."""
    with registrar() as register:
        stage = Stage(build, register, folder, lambda: start_qmond(folder, {}))
        try:
            yield stage
        finally:
            for daemon in stage.daemons:
                end_qmond(daemon)
