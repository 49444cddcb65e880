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
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from stock import ORDINARY, Stock, handed

from qmond.client import Client

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
        process.wait(PATIENCE)


class Counting:
    """A guest that writes numbers until it is told to end, whatever happens meanwhile."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process

    @property
    def runs(self) -> bool:
        """Whether it still does."""
        return self._process.poll() is None

    def end(self) -> list[str]:
        """Tell it to end; returns all the lines that it wrote."""
        last, _ = self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0
        return [f"{number:08}\n" for number in range(int(last) + 1)]


@contextlib.contextmanager
def counting(program: Path, *, some: int = 100, pause: int = 10) -> Iterator[Counting]:
    """Start a guest that writes some numbers every so many milliseconds."""
    command = ["qemu-aarch64-static", str(program), str(some), str(pause)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Counting(process)
        finally:
            process.kill()


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
    heard: list[str]
    attending: threading.Thread
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
        """Return what `qmonctl status --json` prints. Raises QmondError."""
        with Client(self.socket) as client:
            return client.status()

    def newest(self) -> int:
        """Return the number of the last line."""
        with Client(self.socket) as client:
            return int(client.about["newest"])

    def write(self) -> None:
        """Wait until it has written something more."""
        before = self.newest()
        wait_until(lambda: self.newest() > before)

    def end(self, patience: float = PATIENCE) -> None:
        """Stop in order."""
        self.stopped = True
        os.kill(self.pid, signal.SIGTERM)
        assert self.process.wait(patience) == 0
        self.attending.join()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.stopped = True
        kill(self.process, self.pid)
        self.attending.join()

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
    stock: Stock | None = None,
) -> Qmond:
    """Start a daemon and wait for READY=1, which it tells as it tells systemd.

    `stock` has its kernel side, if it is an ordinary one.
    """
    stored = {} if stored is None else stored
    patch = hand_over(stored) + patch if stored else patch
    given: dict[str, int] = {}
    if stock and not stored and not under and config.get("ring", ORDINARY) == ORDINARY:
        given = stock.take()
        patch = handed(given) + patch
    log = config.setdefault("log", {})
    log.setdefault("dir", str(folder / "log"))
    path = Path(config.setdefault("socket", {}).setdefault("path", str(folder / "qmond.sock")))
    file = folder / "qmon.yaml"
    file.write_text(yaml.safe_dump(config))
    notify = folder / "notify"
    notify.unlink(missing_ok=True)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.bind(str(notify))
    began = time.monotonic()
    with (folder / "stderr").open("ab") as said:
        process = subprocess.Popen(
            [*under, sys.executable, "-c", f"{patch}\n{_MAIN}", "--config", str(file)],
            env=os.environ | {"NOTIFY_SOCKET": str(notify)},
            pass_fds=(*stored.values(), *given.values()),
            stderr=said,
        )
    close(given)
    heard: list[str] = []
    attending = threading.Thread(target=attend, args=(channel, process, heard, stored))
    attending.start()
    try:
        wait_until(lambda: "READY=1" in heard or not attending.is_alive())
        assert "READY=1" in heard, "it has ended"
    except AssertionError as error:
        kill(process, daemon_of(process, under))
        attending.join()
        close(stored)
        raise AssertionError((folder / "stderr").read_text()) from error
    took = time.monotonic() - began
    pid = daemon_of(process, under)
    return Qmond(process, path, Path(log["dir"]), took, pid, stored, heard, attending)


def attend(
    channel: socket.socket,
    process: subprocess.Popen[bytes],
    heard: list[str],
    stored: dict[str, int],
) -> None:
    """Be systemd for a daemon as long as it lives: hear what it tells, keep what it stores."""
    channel.settimeout(0.05)
    with channel:
        while True:
            try:
                message, descriptors, *_ = socket.recv_fds(channel, 4096, 1)
            except TimeoutError:
                if process.poll() is not None:
                    return
            else:
                keep(message, descriptors, stored)
                heard.extend(message.decode().splitlines())


def keep(message: bytes, descriptors: list[int], stored: dict[str, int]) -> None:
    """Do what systemd's descriptor store does with a message."""
    lines = dict(line.partition("=")[::2] for line in message.decode().splitlines())
    if lines.get("FDSTORE") == "1":
        (stored[lines["FDNAME"]],) = descriptors
        return
    if lines.get("FDSTOREREMOVE") == "1" and lines["FDNAME"] in stored:
        os.close(stored.pop(lines["FDNAME"]))
    for fd in descriptors:  # of BARRIER=1: all before it is done
        os.close(fd)


def close(stored: dict[str, int]) -> None:
    """Empty a descriptor store."""
    while stored:
        os.close(stored.popitem()[1])


def daemon_of(process: subprocess.Popen[bytes], under: Sequence[str]) -> int:
    """Return the daemon's process ID: where `unshare --fork` runs it, that is its child."""
    if "--fork" not in under:
        return process.pid
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else process.pid


def kill(process: subprocess.Popen[bytes], pid: int) -> None:
    """End a daemon by SIGKILL, and so whoever runs it; it may have ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.kill(pid, signal.SIGKILL)
    process.wait(PATIENCE)


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
    """Make sure that a test's daemon is gone, and not by itself, and that its books were right."""
    try:
        if not daemon.stopped:
            assert daemon.process.poll() is None, "it ended by itself"
            daemon.end()
            check_books(daemon.stream())
    finally:
        daemon.kill()
        close(daemon.stored)
