"""Each attack beside a guest that does no harm, whose writes are counted: `make attacks`.

    python tests/hostile/attacks.py --out docs/attacks.md

All of the guest's 1,000,000 writes must be in the log, but for one of a hundred that are told as
lost; the daemon must answer within a second, and grow by no more than 64 MB meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from attack import (
    FLOOD,
    MEMBER,
    TAILS,
    attacking,
    clients,
    compiled,
    mute,
    open_folder,
    planted,
)
from common import memory
from harness import QMONCTL, Qmond, builder, start_qmond
from report import Report

from qmond.client import Client

_NUMBERS = 1_000_000
_GUEST = ["setpriv", "--reuid=2000", "--regid=2000", "--clear-groups", "qemu-aarch64-static"]
_COLUMNS = ("attack", "written", "lost", "counted as lost", "slowest answer", "memory", "growth")
_ABOUT = """\
From one run of `make attacks`. In each row, an honest guest writes 1,000,000 lines, while another
user attacks qmond without any privilege. `written` and `lost` are about the honest guest's lines.
`counted as lost` is the number that qmond gives, with the attacker's own writes. `slowest answer`
is the longest time that a client waited for `status`. `memory` is that of all the daemon's
processes together (PSS), at most, and `growth` what that is more than before.
"""
_LONG = "600"
"""Seconds that an attack would go on by itself."""
_MASKED = {"36 secrets": "://a:b@" * 36, "one secret": "token=abcd"}
_LIBRARIES = {
    "sparse": "3 GiB, sparse",
    "tables": "65,280 symbol tables",
    "nowhere": "malloc outside of its code",
    "behind": "malloc behind its end",
    "own": "a copy that another user owns",
}
_ENDLESS = "[1,2,3,4,5,6,7,8,9,10,11,12]"

Attack = Callable[[Path, Qmond], AbstractContextManager[object]]


def _program(name: str, *words: str) -> Attack:
    def attack(folder: Path, _daemon: Qmond) -> AbstractContextManager[object]:
        return attacking(compiled(name, folder), *words, folder=folder)

    return attack


@contextmanager
def _trees(folder: Path, _daemon: Qmond) -> Iterator[None]:
    sower = compiled("trees", folder, called="sower")
    with attacking(sower, _LONG, "4000", compiled("ends", folder), folder=folder):
        yield


@contextmanager
def _forged(folder: Path, _daemon: Qmond) -> Iterator[None]:
    program = compiled("compat", folder)
    with attacking("sh", "-c", f"while {program}; do :; done", folder=folder):
        yield


@contextmanager
def _execs(folder: Path, _daemon: Qmond) -> Iterator[None]:
    program = compiled("threadexec", folder)
    with attacking("sh", "-c", f"while {program} 100 /bin/true; do :; done", folder=folder):
        yield


@contextmanager
def _late(folder: Path, _daemon: Qmond) -> Iterator[None]:
    program = compiled("late", folder)
    (folder / "own/fifo").unlink(missing_ok=True)
    subprocess.run(["mkfifo", "-m", "666", folder / "own/fifo"], check=True)
    with attacking(program, "1100", "fifo", folder=folder):
        yield


def _library(kind: str) -> Attack:
    @contextmanager
    def attack(folder: Path, _daemon: Qmond) -> Iterator[None]:
        file, mapper = planted(kind, folder)
        with attacking(mapper, file, folder=folder):
            yield

    return attack


@contextmanager
def _memory(folder: Path, _daemon: Qmond) -> Iterator[None]:
    with mute(folder):
        yield


def _clients(program: str) -> Attack:
    def attack(_folder: Path, daemon: Qmond) -> AbstractContextManager[object]:
        return clients(daemon.socket, program, float(_LONG))

    return attack


@contextmanager
def _endless(_folder: Path, daemon: Qmond) -> Iterator[None]:
    expression = "pid > 0"
    for name in "abcdefg":
        expression = f"{_ENDLESS}.all({name}, {expression})"
    command = [*MEMBER, str(QMONCTL), "--socket", str(daemon.socket), "tail", "--where", expression]
    null = subprocess.DEVNULL
    with ExitStack() as stack:
        for _ in range(8):
            stack.callback(subprocess.Popen(command, stdout=null, stderr=null).kill)
        yield


@contextmanager
def _nothing(_folder: Path, _daemon: Qmond) -> Iterator[None]:
    yield


ATTACKS: dict[str, Attack] = {
    "no attack": _nothing,
    **{
        f"a guest writes {what} per call, in four threads": _program("writers", _LONG, text)
        for what, text in _MASKED.items()
    },
    "a guest writes single bytes, in four threads": _program("writers", _LONG),
    "a guest calls writev with 1,000 parts, in four threads": _program("vectors", _LONG),
    "a guest executes a file that does not exist": _program("execfail", _LONG, "8"),
    "a guest forks children that end at once": _program("forks", _LONG),
    "a guest forks without waiting for its children": _program("forker", _LONG),
    "a guest calls execve in a second thread": _execs,
    "a guest makes 32-bit system calls": _forged,
    "1,100 threads wait in openat, each with its path on a page that is not in memory": _late,
    "programs start without a pause, each a process tree of its own": _trees,
    "a process has memory on a FUSE file system that does not answer": _memory,
    **{
        f"a guest maps a file libc.so.6: {about}": _library(kind)
        for kind, about in _LIBRARIES.items()
    },
    "32 clients flood the socket with requests": _clients(FLOOD),
    "64 clients tail 1,024 processes each": _clients(TAILS),
    "8 clients filter by an expression that does not end": _endless,
}


@dataclass
class Row:
    """What became of the guest's writes, and of the daemon meanwhile; memory in kB."""

    written: int
    told: int
    slowest: float
    before: int
    after: int

    @property
    def is_right(self) -> bool:
        """Whether it is within the bounds."""
        lost = _NUMBERS - self.written
        grown = self.after - self.before
        return lost <= min(self.told, _NUMBERS // 100) and self.slowest < 1 and grown <= 64 << 10

    def cells(self) -> list[str]:
        """Return them as words, but for the attack's name."""
        return [
            f"{self.written:,}",
            f"{(_NUMBERS - self.written) / _NUMBERS:.2%}",
            f"{self.told:,}",
            f"{self.slowest * 1000:.0f} ms",
            f"{self.after / 1024:.0f} MB",
            f"{(self.after - self.before) / 1024:+.0f} MB",
        ]


class Watch:
    """Asks a daemon how it is, and looks how large it is, again and again."""

    def __init__(self, daemon: Qmond) -> None:
        self.slowest = 0.0
        self.largest = 0
        self._daemon = daemon
        self._done = threading.Event()
        self._asking = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._done.wait(0.25):
            began = time.monotonic()
            with Client(self._daemon.socket) as client:
                client.status()
            self.slowest = max(self.slowest, time.monotonic() - began)
            with contextlib.suppress(OSError):  # one of the processes has just ended
                self.largest = max(self.largest, memory(self._daemon.pid))

    def __enter__(self) -> Self:
        self._asking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._asking.join()


def _fight(attack: Attack, guest: Path) -> Row:
    with open_folder() as folder:
        config = {
            "socket": {"path": str(folder / "qmond.sock"), "group": "games"},
            "log": {"rotate": {"size": "1G"}, "keep": {"bytes": "30G", "files": 1000}},
        }
        (folder / "daemon").mkdir()
        daemon = start_qmond(folder / "daemon", config)
        try:
            with Client(daemon.socket) as client:
                client.status()
            before = memory(daemon.pid)
            with attack(folder, daemon), Watch(daemon) as watch:
                time.sleep(1)
                with subprocess.Popen([*_GUEST, guest, str(_NUMBERS)]) as honest:
                    honest.wait(300)
            daemon.end(120)
        except BaseException:
            daemon.kill()
            raise
        return Row(
            _written(daemon.log, honest.pid),
            _told(daemon.log),
            watch.slowest,
            before,
            watch.largest,
        )


def _written(log: Path, pid: int) -> int:
    wanted = f'"event":"WRITE","pid":{pid},'.encode()
    files = [*log.glob("events*.jsonl"), *log.glob("events-*.zst")]
    assert all(file.suffix == ".jsonl" for file in files)
    return sum(wanted in line for file in files for line in file.open("rb"))


def _told(log: Path) -> int:
    last = subprocess.run(
        ["tail", "-n", "1", log / "events.jsonl"], capture_output=True, check=True
    ).stdout
    told: int = json.loads(last)["totals"]["WRITE"]["lost"]
    return told


def main() -> int:
    """Write the table, and say whether all is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attacks", nargs="*", help="parts of their names; all where there is none")
    parser.add_argument("--out", type=Path, help="the file for the table, otherwise printed")
    options = parser.parse_args()
    report, right = Report("Attacks", _ABOUT, _COLUMNS), True
    with open_folder() as folder:
        guest = builder(folder)("count", "aarch64")
        for name, attack in ATTACKS.items():
            if options.attacks and not any(part in name for part in options.attacks):
                continue
            row = _fight(attack, guest)
            report.add(name, *row.cells(), note="" if row.is_right else "  <- WRONG")
            right = right and row.is_right
    report.write(options.out)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
