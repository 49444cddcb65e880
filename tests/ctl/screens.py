"""Makes docs/screens.md: what qmonctl shows in a terminal of a given size.

The terminal is tmux, qmonctl is the real one, and the daemon is made up, so that it says the same
each time. A row of SCREENS is a section of the page.

    PYTHONPATH=tests python tests/ctl/screens.py --out docs/screens.md
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from peer import HELLO, peers

from qmond.ctl.runs import summary
from qmond.ctl.runs.digest import LISTED, Digest
from qmond.ctl.runs.missing import Missing

PATIENCE: Final = 20.0
"""Seconds that a screen may take."""
_PAUSE: Final = 0.1
_HEAD: Final = """\
# Screens

What `qmonctl` shows in terminals of several sizes. `make screens` makes this page. It runs the real
`qmonctl` in tmux, with a daemon that is made up. Only the end of `record` is made of the same
events without them. A test compares the two.
"""
RECORD: Final = "The end of `record`"


@dataclass(frozen=True, slots=True)
class Screen:
    """A command in a terminal. `connections` are the daemon's answers, see peer.py.

    The screen is there when it has the text `last`, and does not change any more.
    """

    title: str
    command: str
    columns: int
    rows: int
    last: str
    connections: tuple[tuple[bytes, ...], ...]


# ---- what the daemon says ------------------------------------------------------------------------

GUEST: Final = {"arch": "aarch64", "guest": "./sensor"}
ECHO: Final = {"guest": "/bin/echo"}
PARENTS: Final = [{"pid": 1600, "comm": "bash"}, {"pid": 1, "comm": "systemd"}]


def events() -> Iterator[dict[str, Any]]:
    """Yield what a guest does around midnight."""
    yield {"event": "TRACK_ADOPT", "pid": 1622, "ppid": 1600, "bin": "qemu-aarch64-static",
           "origin": "exec", "argv": ["qemu-aarch64-static", "./sensor"], "uid": 1000,
           "launch": "direct", "parents": PARENTS, "allocations": "static", **GUEST}  # fmt: skip
    for file in (
        "/etc/hostname",
        "/usr/share/zoneinfo/Europe/Berlin",
        "/var/lib/測定/最新の結果.txt",
    ):
        yield {
            "event": "TRACK_OPENAT",
            "pid": 1622,
            "bin": "qemu-aarch64-static",
            "file": file,
            **GUEST,
        }
    yield {"event": "READ", "pid": 1622, "fd": 3, "buf": "vm\n", "len": 3, **GUEST}
    yield {"event": "SOCKET", "pid": 1622, "domain": 2, "type": 524289, **GUEST}
    yield {"event": "CONNECT", "pid": 1622, "addr": "192.0.2.7:4444", **GUEST}
    yield {"event": "CONNECT", "pid": 1622, "addr": "[2001:db8::1]:443", **GUEST}
    yield {"event": "SIGNAL_GENERATE", "pid": 1622, "sig": 13, **GUEST}
    yield {"event": "TRACK_FORK", "parent": 1622, "child": 1624, "call": "clone", **GUEST}
    yield {"event": "EXEC", "pid": 1624, "filename": "/bin/echo", **GUEST}
    words = "a program of the host, run by the guest\n\x1b[2J and its content\tis data"
    yield {"event": "WRITE", "pid": 1624, "fd": 1, "buf": words, "len": 64, **ECHO}
    yield {"event": "EXIT", "pid": 1624, "code": 0, "signal": None, **ECHO}
    yield {"event": "MPROTECT", "pid": 1622, "read": 1, "write": 0, "exec": 1, **GUEST}
    yield {"event": "EXIT", "pid": 1622, "code": None, "signal": 11, **GUEST}


def lines() -> bytes:
    """Return these as lines of the log: ten before midnight, and then the others."""
    found = []
    for seq, event in enumerate(events(), 1):
        day, clock = ("14", "23:59:59") if seq <= 10 else ("15", "00:00:00")
        moment = f"2023-11-{day}T{clock}.{seq * 12345 % 1000000:06}Z"
        event |= {"time": moment, "seq": seq}
        found.append(json.dumps({"ts": 8000 + seq / 8, **event}, separators=(",", ":")).encode())
    return b"\n".join(found) + b"\n"


def process(pid: int, guest: str, rate: int, **more: Any) -> dict[str, Any]:
    """Return a watched process, as `ps` tells it."""
    about = {"pid": pid, "ppid": 1600, "uid": 1000, "arch": "aarch64", "launch": "direct",
             "bin": "qemu-aarch64-static", "guest": guest, "comm": guest.rpartition("/")[2],
             "container": None, "start": pid / 10, "age": 8000 - pid * 4.0, "rate": rate,
             "events": rate * 47, "allocations": "static", "parents": PARENTS}  # fmt: skip
    return about | more


RUNNING: Final = [
    process(1622, "./sensor", 6),
    process(
        1624,
        "/bin/echo",
        0,
        arch=None,
        launch="nested",
        ppid=1622,
        parents=[{"pid": 1622, "comm": "sensor"}, *PARENTS],
    ),
    process(
        1701, "/usr/bin/測定", 3, container="0123456789abcdef" * 4, launch="binfmt", arch="arm"
    ),
]


def ok(answer: object, number: int = 1) -> bytes:
    """Return the answer to a request of a number."""
    return json.dumps({"id": number, "ok": answer}).encode() + b"\n"


def status(reads: int, writes: int, number: int) -> bytes:
    """Return the answer to `status`, as far as `top` looks at it."""
    seen = {"READ": reads, "WRITE": writes}
    rows = {name: {"seen": count, "written": count, "lost": 0, "suppressed": 0}
            for name, count in seen.items()}  # fmt: skip
    return ok({"counters": rows}, number)


TAIL: Final = ((HELLO, ok({}) + lines(), b""),)
PS: Final = ((HELLO, ok(RUNNING), b""),)
TOP: Final = (
    (HELLO,),
    (HELLO, ok(RUNNING), status(282, 141, 2), ok(RUNNING, 3), status(288, 144, 4), b"", b""),
)

SCREENS: Final = (
    Screen("`tail`, 120 columns", "qmonctl tail -n 15", 120, 22, "signal=11", TAIL),
    Screen("`tail`, 80 columns", "qmonctl tail -n 15", 80, 22, "signal=11", TAIL),
    Screen("`tail`, 50 columns", "qmonctl tail -n 15", 50, 22, "signal=11", TAIL),
    Screen("`top`", "qmonctl top", 80, 12, "READ 6/s", TOP),
    Screen("`ps`", "qmonctl ps", 100, 8, "/usr/bin/測定", PS),
    Screen("`tree`", "qmonctl tree", 80, 8, "/usr/bin/測定", PS),
)


# ---- the terminal --------------------------------------------------------------------------------


def shoot(screen: Screen) -> str:
    """Return what the terminal shows. Raises TimeoutError where it is not there in time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with peers(folder / "qmond.sock", *screen.connections), _terminal(folder, screen) as tmux:
            shown, end = "", time.monotonic() + PATIENCE
            while time.monotonic() < end:
                before, shown = shown, _tmux(tmux, "capture-pane", "-p")
                if screen.last in shown and shown == before:
                    return "\n".join(line.rstrip() for line in shown.rstrip().splitlines()) + "\n"
                time.sleep(_PAUSE)
            raise TimeoutError(f"{screen.title}: no {screen.last!r} in\n{shown}")


@contextmanager
def _terminal(folder: Path, screen: Screen) -> Iterator[Sequence[str]]:
    """Run the command in a terminal; gives the beginning of tmux's command line."""
    (folder / "conf").write_text("set -g status off\n")
    (folder / "run").write_text(f"echo '# {screen.command}'\n{screen.command}\nread wait\n")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "QMOND_SOCKET": str(folder / "qmond.sock"),
    }
    tmux = ["tmux", "-u", "-S", str(folder / "tmux"), "-f", str(folder / "conf")]
    size = ["-x", str(screen.columns), "-y", str(screen.rows)]
    begin = [*tmux, "new-session", "-d", *size, f"sh {folder / 'run'}"]
    subprocess.run(begin, env=environment, check=True)
    try:
        yield tmux
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)


def _tmux(tmux: Sequence[str], *words: str) -> str:
    return subprocess.run([*tmux, *words], capture_output=True, check=True).stdout.decode()


def recorded() -> str:
    """Return what `record` prints at its end. Here times and process IDs are always the same."""
    digest, missing = Digest(), Missing(LISTED)
    for event in events():
        digest.add(event)
        missing.add(event)
    lost = {"stage": "ring", "by_event": {"READ": 2, "WRITE": 1}}
    missing.add_loss("LOST", lost, digest.pids)
    run = summary.Run(["qemu-aarch64-static", "./sensor"], 128 + 11, 1.17)
    lines = summary.lines(digest, run, missing.reasons, "run")
    return "".join(["# qmonctl record -o run -- qemu-aarch64-static ./sensor\n", *lines])


def section(title: str, shown: str) -> str:
    """Return a section of the page."""
    return f"## {title}\n\n```\n{shown}```\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    sections = [section(screen.title, shoot(screen)) for screen in SCREENS]
    out.write_text("\n".join([_HEAD, *sections, section(RECORD, recorded())]))


if __name__ == "__main__":
    main()
