"""Real guests, a real daemon, the real kernel: what the root tests and the scenarios share."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

GUESTS = Path(__file__).parent / "guests"
COMPILERS = {
    "aarch64": "aarch64-linux-gnu-gcc",
    "arm": "arm-linux-gnueabihf-gcc",
    "riscv64": "riscv64-linux-gnu-gcc",
    "native": "gcc",
}
QMONCTL = Path(sys.executable).with_name("qmonctl")
PATIENCE = 60
"""Seconds; what takes a moment here may take many on a busy machine."""


Value = TypeVar("Value")


def wait_until(condition: Callable[[], Value]) -> Value:
    """Return a condition's value once it is true."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return value


# ---- guests ------------------------------------------------------------------------------------


def builder(folder: Path) -> Callable[[str, str], Path]:
    """Return what compiles a guest for an architecture, once, into a folder."""

    def build(name: str, arch: str) -> Path:
        program = folder / f"{name}-{arch}"
        if not program.exists():
            source = GUESTS / f"{name}.c"
            flags = ["-static", "-pthread", "-O1", "-w"]
            subprocess.run([COMPILERS[arch], *flags, "-o", program, source], check=True)
        return program

    return build


class Waiting:
    """A guest that waits for orders."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    def begin(self, order: bytes) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(order)
        self._process.stdin.flush()

    def do(self, orders: bytes) -> None:
        """Give orders, and wait until each is done."""
        self.begin(orders)
        assert self._process.stdout is not None
        for _ in orders:
            assert select.select([self._process.stdout], [], [], PATIENCE)[0], "no answer"
            assert self._process.stdout.read(1) == b"."

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()


@contextlib.contextmanager
def waiting(*command: str | Path) -> Iterator[Waiting]:
    """Start the guest that waits; it has begun to, and ends at the end."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        guest = Waiting(process)
        guest.do(b"-")
        yield guest
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)


@contextlib.contextmanager
def registrar() -> Iterator[Callable[[str], None]]:
    """Give what registers an interpreter with binfmt_misc; all is undone afterwards.

    Mount and entries are the caller's own, so that another's that come or go matter to nobody.
    """
    entries: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(prefix="qmond-binfmt-") as mounted:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", mounted], check=True)

        def register(arch: str) -> None:
            if arch in entries:
                return
            line = Path(f"/usr/lib/binfmt.d/qemu-{arch}.conf").read_bytes().strip()
            entry = Path(mounted, f"{Path(mounted).name}-{arch}")
            (Path(mounted) / "register").write_bytes(
                line.replace(f":qemu-{arch}:".encode(), f":{entry.name}:".encode(), 1)
            )
            entries[arch] = entry

        try:
            yield register
        finally:
            for entry in entries.values():
                entry.write_text("-1")
            subprocess.run(["umount", mounted], check=True)


# ---- the daemon --------------------------------------------------------------------------------


@dataclass
class Qmond:
    """A running daemon of a test's own."""

    process: subprocess.Popen[bytes]
    socket: Path
    log: Path
    ready_after: float
    pid: int
    stored: dict[str, int]
    stopped: bool = False

    def stream(self) -> Iterator[dict[str, Any]]:
        """Yield all that is in the log now; a line that is not JSON fails the test."""
        for path in [*sorted(self.log.glob("events-*.jsonl")), self.log / "events.jsonl"]:
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        yield json.loads(line)

    def events(self) -> list[dict[str, Any]]:
        """Return what `stream` yields."""
        return list(self.stream())

    def of(self, pid: int) -> list[dict[str, Any]]:
        """Return a process' events, once it has ended."""

        def ended() -> list[dict[str, Any]]:
            found = [event for event in self.events() if event.get("pid") == pid]
            return found if any(event["event"] == "EXIT" for event in found) else []

        return wait_until(ended)

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run qmonctl."""
        command = [str(QMONCTL), "--socket", str(self.socket), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def status(self) -> dict[str, Any]:
        """Return what `qmonctl status --json` says."""
        status: dict[str, Any] = json.loads(self.ctl("status", "--json").stdout)
        return status

    def end(self) -> None:
        """Stop in order."""
        self.stopped = True
        os.kill(self.pid, signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0

    def stop(self) -> list[dict[str, Any]]:
        """Stop in order, check the books, and return all events."""
        self.end()
        events = self.events()
        check_books(events)
        return events


def check_books(events: Iterable[dict[str, Any]]) -> None:
    """Hold END's totals against the lines since START: seen = written + lost + suppressed."""
    lines: Counter[str] = Counter()
    end: dict[str, Any] = {}
    for end in events:
        if end.get("event") == "START" and "resumed" not in end:
            lines.clear()
        lines[end.get("event") or end["evt"]] += 1
    assert end["event"] == "END"
    if "totals" not in end:  # with `fields: original`
        return
    assert lines["START"] >= 1
    del lines["END"]
    written = Counter({name: row["written"] for name, row in end["totals"].items()})
    assert (written - lines, lines - written) == (Counter(), Counter())
    for name, row in end["totals"].items():
        assert row["seen"] == row["written"] + row["lost"] + row["suppressed"], (name, row)


_MAIN = "import sys; from qmond.__main__ import main; sys.exit(main())"


def start_qmond(
    folder: Path,
    config: dict[str, Any],
    *,
    under: Sequence[str] = (),
    patch: str = "",
    stored: dict[str, int] | None = None,
) -> Qmond:
    """Start a daemon and wait for READY=1, which it tells as it tells systemd."""
    stored = {} if stored is None else stored
    patch = hand_over(stored) + patch if stored else patch
    log = config.setdefault("log", {})
    log.setdefault("dir", str(folder / "log"))
    path = Path(config.setdefault("socket", {}).setdefault("path", str(folder / "qmond.sock")))
    file = folder / "qmon.yaml"
    file.write_text(yaml.safe_dump(config))
    notify = folder / "notify"
    notify.unlink(missing_ok=True)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
        (folder / "stderr").open("ab") as said,
    ):
        notified.bind(str(notify))
        notified.settimeout(PATIENCE)
        began = time.monotonic()
        process = subprocess.Popen(
            [*under, sys.executable, "-c", f"{patch}\n{_MAIN}", "--config", str(file)],
            env=os.environ | {"NOTIFY_SOCKET": str(notify)},
            pass_fds=tuple(stored.values()),
            stderr=said,
        )
        try:
            while (message := socket.recv_fds(notified, 4096, 1))[0] != b"READY=1":
                keep(message[0], message[1], stored)
        except (TimeoutError, AssertionError) as error:
            process.kill()
            process.wait()
            raise AssertionError((folder / "stderr").read_text()) from error
        took = time.monotonic() - began
    pid = process.pid
    if "--fork" in under:
        (pid,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return Qmond(process, path, Path(log["dir"]), took, pid, stored)


def keep(message: bytes, descriptors: list[int], stored: dict[str, int]) -> None:
    """Do what systemd's descriptor store does with a message."""
    lines = dict(line.partition("=")[::2] for line in message.decode().splitlines())
    if lines.get("FDSTORE") == "1":
        (stored[lines["FDNAME"]],) = descriptors
    elif lines.get("FDSTOREREMOVE") == "1" and lines["FDNAME"] in stored:
        os.close(stored.pop(lines["FDNAME"]))


def hand_over(stored: dict[str, int]) -> str:
    """Return statements that give a daemon what is in the store, as systemd does: sd_listen_fds."""
    return f"""
import os
given = {list(stored.values())}
moved = [os.dup2(fd, 300 + at) for at, fd in enumerate(given)]
for fd in given: os.close(fd)
for at, fd in enumerate(moved): os.dup2(fd, 3 + at); os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)))
os.environ["LISTEN_FDNAMES"] = {":".join(stored)!r}
"""


def end_qmond(daemon: Qmond) -> None:
    """Make sure that a test's daemon is gone, and that its books were right."""
    if not daemon.stopped and daemon.process.poll() is None:
        daemon.end()
        check_books(daemon.stream())
    if daemon.process.poll() is None:
        daemon.process.kill()
        daemon.process.wait()
    while daemon.stored:
        os.close(daemon.stored.popitem()[1])
