"""Local users, and a front that has gone over to them, against a real daemon.

Beside a guest whose writes are counted: each attack may cost at most one of a hundred of them.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attack import FLOOD, MEMBER, TAILS, clients, open_folder
from conftest import Build, StartQmond
from harness import PATIENCE, QMONCTL, Qmond, counting, wait_until

from qmond.client import Client
from qmond.errors import QmondError

pytestmark = pytest.mark.root

NUMBERS = 100_000


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that everybody may look into."""
    with open_folder() as found:
        yield found


def daemon_for(qmond: StartQmond, folder: Path, *, patch: str = "") -> Qmond:
    socket = {"path": str(folder / "qmond.sock"), "group": "games", "payload_group": "audio"}
    return qmond(patch=patch, socket=socket, log={"group": "dialout"})


@pytest.mark.parametrize("program", [FLOOD, TAILS], ids=["flood", "tails"])
def test_what_clients_do_costs_no_event_and_root_gets_in(
    qmond: StartQmond, build: Build, folder: Path, program: str
) -> None:
    daemon = daemon_for(qmond, folder)
    storm = ["qemu-aarch64-static", str(build("count", "aarch64")), str(NUMBERS)]
    with clients(daemon.socket, program, 30):
        wait_until(lambda: daemon.status()["connected"] > 8)
        with subprocess.Popen(storm) as guest:
            began = time.monotonic()
            with Client(daemon.socket) as client:
                assert client.request("reload") == {"restart": []}
            assert time.monotonic() - began < 10
        assert guest.returncode == 0
        assert daemon.status()["connected"] <= 64 // 4 + 8
    events = daemon.stop()
    written = sum(e.get("event") == "WRITE" and e["pid"] == guest.pid for e in events)
    assert written >= NUMBERS * 0.99
    assert events[-1]["totals"]["WRITE"]["lost"] <= NUMBERS * 0.01


def test_an_endless_expression_ends(qmond: StartQmond, build: Build, folder: Path) -> None:
    daemon = daemon_for(qmond, folder)
    many = "[" + ",".join(["1"] * 120) + "]"
    endless = f"{many}.all(a,{many}.all(b,{many}.all(c,{many}.all(d,{many}.all(e,a+b+c+d+e>0)))))"
    command = [*MEMBER, str(QMONCTL), "--socket", str(daemon.socket), "tail", "--where", endless]
    asking = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: any(client["tailing"] for client in daemon.status()["clients"]))
    subprocess.run(["qemu-aarch64-static", build("count", "aarch64"), "3"], check=True)
    _, said = asking.communicate(timeout=PATIENCE)
    assert b"took more than 1 s of CPU time for one line" in said


def test_the_front_is_nobody_with_nothing(qmond: StartQmond, folder: Path) -> None:
    daemon = daemon_for(qmond, folder)
    pid = daemon.status()["front"]["pid"]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":\t" in line
    )  # fmt: skip
    (uid,) = set(status["Uid"].split())
    assert 60706 <= int(uid) < 61184
    assert set(status["Gid"].split()) == {"20"}
    assert status["Groups"].split() == []
    assert {int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Amb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert os.stat(f"/proc/{pid}/environ").st_uid == 0, "it is not dumpable"
    assert b"qmond.front" in Path(f"/proc/{pid}/cmdline").read_bytes()
    daemon.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_another_front_comes_and_nothing_is_missed(
    qmond: StartQmond, build: Build, folder: Path, number: signal.Signals
) -> None:
    patch = "import qmond.daemon.fronting; qmond.daemon.fronting._SILENT = 5"
    daemon = daemon_for(qmond, folder, patch=patch)
    command = [str(QMONCTL), "--socket", str(daemon.socket), "tail", "--follow=retry"]
    with (
        subprocess.Popen(
            [*command, "--last", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as tail,
        counting(build("count", "aarch64"), some=20) as guest,
    ):
        got: list[bytes] = []
        assert tail.stdout is not None
        reading = threading.Thread(target=got.extend, args=(tail.stdout,))
        reading.start()
        wait_until(lambda: len(got) > 100)
        for _ in range(2 if number == signal.SIGKILL else 1):
            front = daemon.status()["front"]
            os.kill(front["pid"], number)

            def is_another(before: int = front["starts"]) -> bool:
                with contextlib.suppress(QmondError, ValueError, subprocess.TimeoutExpired):
                    found: int = daemon.status()["front"]["starts"]
                    return found > before
                return False

            wait_until(is_another)
            has_more(got)
        guest.end()
        newest = daemon.stop()[-1]["seq"]
        wait_until(lambda: json.loads(got[-1])["seq"] >= newest)
        tail.terminate()
        reading.join()
    numbers = [json.loads(line)["seq"] for line in got]
    assert numbers == list(range(numbers[0], newest + 1))


def has_more(got: list[bytes]) -> None:
    """Wait until a hundred lines more have come."""
    count = len(got) + 100
    wait_until(lambda: len(got) > count)


HOSTILE = """
import os, socket, sys
if "qmond.front" in sys.orig_argv:
    control = socket.socket(fileno=int(sys.orig_argv[-5]))

    while True:
        try: control.send(%r)
        except OSError: os._exit(0)
"""
CLOSING = """
import socket, sys, time
if "qmond.front" in sys.orig_argv:
    handover = socket.socket(fileno=int(sys.orig_argv[-4]))
    name, (listener,), *_ = socket.recv_fds(handover, 64, 1)
    socket.socket(fileno=listener).shutdown(socket.SHUT_RDWR)
    time.sleep(1000)
"""


LEAVING = """
import os, sys, time
if "qmond.front" in sys.orig_argv:
    if os.fork() == 0:
        os.setsid()
        open(%r, "a").write(f"{os.getpid()}\\n")
        time.sleep(1000)
    os._exit(1)
"""
TALKING = """
import os, sys
if "qmond.front" in sys.orig_argv:
    for _ in range(150):  # 5 MB, some 4 s at the pace at which it is heard
        os.write(2, b"\\x1b[2Jqmond: INFO: it is all right\\n" * 1000)
"""


def patched(folder: Path, front: str) -> str:
    """Return what has a daemon's front run this at its start, and others follow soon."""
    (folder / "sitecustomize.py").write_text(front)
    path = f"{folder}:" + os.environ.get("PYTHONPATH", "")
    patch = f"import os; os.environ.update(PYTHONPATH={path!r})"
    return patch + "\nimport qmond.daemon.fronting; qmond.daemon.fronting._PAUSES = (0.1, 0.2)"


def test_what_a_front_leaves_behind_ends_too(qmond: StartQmond, folder: Path) -> None:
    left = folder / "own/left"
    daemon = qmond(
        patch=patched(folder, LEAVING % str(left)),
        socket={"path": str(folder / "qmond.sock")},
    )
    wait_until(lambda: left.exists() and len(left.read_text().split()) > 1)
    (folder / "sitecustomize.py").unlink()
    wait_until(lambda: daemon.ctl("status").returncode == 0)
    pids = left.read_text().split()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_what_a_front_says_is_bounded_and_harmless(qmond: StartQmond, folder: Path) -> None:
    daemon = qmond(
        patch=patched(folder, TALKING),
        socket={"path": str(folder / "qmond.sock")},
    )
    wait_until(lambda: daemon.ctl("status").returncode == 0)
    said = daemon.log.with_name("stderr").read_bytes()
    assert b"it is all right" in said
    assert b"\x1b" not in said
    assert len(said) < 1 << 20


def test_a_socket_that_a_front_shut_down_is_bound_anew(qmond: StartQmond, folder: Path) -> None:
    daemon = qmond(
        patch=patched(folder, CLOSING),
        socket={"path": str(folder / "qmond.sock")},
    )
    told = daemon.log.with_name("stderr")
    wait_until(lambda: "was shut down, and is bound anew" in told.read_text())
    (folder / "sitecustomize.py").unlink()
    wait_until(lambda: daemon.ctl("status").returncode == 0)


@pytest.mark.parametrize(
    "said",
    [
        os.urandom(4096),
        b'{"id":1,"op":"ps","args":{}}\n' * 1000,
        b'{"id":1,"op":"rotate","args":{}}\n' * 3,
        b"x" * 65536,
    ],
    ids=["noise", "flood", "rotate", "endless"],
)
def test_a_front_that_has_gone_over_cannot_disturb_the_core(
    qmond: StartQmond, build: Build, folder: Path, said: bytes
) -> None:
    """Whatever each new front says, and however often it is replaced, no event is lost."""
    daemon = qmond(
        patch=patched(folder, HOSTILE % said),
        socket={"path": str(folder / "qmond.sock")},
    )
    storm = ["qemu-aarch64-static", str(build("count", "aarch64")), str(NUMBERS)]
    subprocess.run(storm, check=True)
    heard = daemon.heard
    beats = heard.count("WATCHDOG=1")
    wait_until(lambda: heard.count("WATCHDOG=1") > beats + 2)
    events = daemon.stop()
    totals = events[-1]["totals"]["WRITE"]
    assert totals["lost"] <= NUMBERS * 0.01
    assert totals["written"] >= NUMBERS * 0.99
    assert len(list(daemon.log.glob("events-*"))) <= 25
    told = daemon.log.with_name("stderr")
    assert "it breaks the protocol" in told.read_text()
