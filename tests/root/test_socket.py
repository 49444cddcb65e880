"""The socket of a real daemon: who may, the past joined to what comes, and many clients."""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import QMONCTL, Counting, Qmond, counting, wait_until

from qmond.client import AsyncClient, Client
from qmond.errors import RequestError

pytestmark = pytest.mark.root
StartQmond = Callable[..., Qmond]
Build = Callable[[str, str], Path]

BUSYBOX = Path(sys.executable).parent.parent / "guests/busybox-arm64"
CONFESSION = "the moon is a harsh mistress"
ASK = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])
f = s.makefile("rb"); print(f.readline().decode(), end="")
for request in sys.argv[3:]:
    s.sendall(request.encode() + b"\\n")
    for _ in range(int(sys.argv[2])): print(f.readline().decode(), end="")
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that everybody may look into."""
    with tempfile.TemporaryDirectory(prefix="qmond-socket-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def ask_as(groups: str, path: Path, lines: int, *requests: dict[str, Any]) -> tuple[str, str]:
    """Ask as nobody, in some groups, and read so many lines for each request."""
    user = ["setpriv", "--reuid=65534", "--regid=65534", f"--groups={groups}"]
    texts = [json.dumps(request) for request in requests]
    command = [*user, "/usr/bin/python3", "-c", ASK, str(path), str(lines), *texts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout, done.stderr


def test_who_may_see_what(qmond: StartQmond, open_folder: Path) -> None:
    path = open_folder / "qmond.sock"
    names = {"path": str(path), "group": "games", "payload_group": "audio"}
    daemon = qmond(socket=names)
    guest = ["qemu-aarch64-static", str(BUSYBOX), "cat"]
    subprocess.run(guest, input=CONFESSION.encode(), stdout=subprocess.DEVNULL, check=True)
    wait_until(lambda: any(event.get("buf") == CONFESSION for event in daemon.events()))
    games, audio = "60", "29"  # Debian's own

    out, error = ask_as("65534", path, 1, {"op": "status"})
    assert out == ""
    assert "PermissionError" in error

    past = {"from_seq": 1, "follow": False}
    lines = len(daemon.events())
    out, _ = ask_as(f"{games},{audio}", path, lines, {"op": "tail", "args": past})
    assert CONFESSION in out

    for args in (
        past,
        {"last": lines, "follow": False},
        {"since": "1h", "follow": False},
        past | {"where": "fd >= 0 || fd == null"},
        past | {"fields": ["buf", "buf_b64", "event", "fd"]},
    ):
        out, error = ask_as(games, path, lines, {"op": "tail", "args": args})
        assert out.count("\n") == lines + 1, error
        assert CONFESSION not in out
        assert '"buf' not in out
    for where in (f'buf == "{CONFESSION}"', "size(buf) > 3", '{"a": buf}.a != ""', "has(buf.x)"):
        args = past | {"where": where}
        out, _ = ask_as(games, path, 1, {"op": "tail", "args": args})
        assert json.loads(out.splitlines()[1])["error"]["class"] == "Forbidden"
    for op in ("log-level", "rotate"):
        out, _ = ask_as(f"{games},{audio}", path, 1, {"op": op})
        assert json.loads(out.splitlines()[1])["error"]["class"] == "Forbidden"
    for op in ("status", "ps", "tree", "events", "config"):
        out, _ = ask_as(games, path, 1, {"op": op})
        assert "ok" in json.loads(out.splitlines()[1])
        assert CONFESSION not in out


def test_live_lines_are_without_content_too(qmond: StartQmond, open_folder: Path) -> None:
    path = open_folder / "qmond.sock"
    qmond(socket={"path": str(path), "group": "games", "payload_group": "audio"})
    out: list[str] = []
    request = {"op": "tail", "args": {"events": ["READ", "WRITE"]}}
    asking = threading.Thread(target=lambda: out.append(ask_as("60", path, 2, request)[0]))
    asking.start()
    with Client(path) as watching:
        wait_until(lambda: any(client["tailing"] for client in watching.status()["clients"]))
    guest = ["qemu-aarch64-static", str(BUSYBOX), "cat"]
    while asking.is_alive():
        subprocess.run(guest, input=CONFESSION.encode(), stdout=subprocess.DEVNULL, check=True)
    assert '"redacted":true' in out[0]
    assert CONFESSION not in out[0]


def test_the_past_is_joined_to_what_comes_twenty_times(qmond: StartQmond, build: Build) -> None:
    """The guest writes on until all have joined, and many files are complete."""
    daemon = qmond(log={"rotate": {"size": "1M"}, "keep": {"files": 1000}})
    choices: list[dict[str, Any]] = [{}, {"where": "pid != 1"}, {"guest": None}, {"arch": None}]

    progress: list[list[int]] = [[] for _ in range(20)]

    async def follow(number: int) -> list[int]:
        await asyncio.sleep(number * 0.05)
        found = progress[number]
        async with AsyncClient(daemon.socket) as client:
            choice = choices[number % len(choices)]
            async for line in client.tail(from_seq=1, **choice):
                assert b'"event":"GAP"' not in line
                found.append(int(re.findall(rb',"seq":(\d+)', line)[-1]))
                if b'"event":"END"' in line:
                    break
        return found

    async def follow_all(guest: Counting) -> list[list[int]]:
        followers = [asyncio.create_task(follow(number)) for number in range(20)]
        async with asyncio.timeout(120):
            while not all(progress) or len(list(daemon.log.glob("events-*"))) <= 20:
                await asyncio.sleep(0.1)
            assert guest.runs
            lines = await asyncio.to_thread(guest.end)
            while min(map(len, progress)) < len(lines):
                await asyncio.sleep(0.1)
        ending = asyncio.create_task(asyncio.to_thread(daemon.end))
        everything = await asyncio.gather(*followers)
        await ending
        return everything

    with counting(build("count", "aarch64"), some=200, pause=5) as guest:
        everything = asyncio.run(follow_all(guest))
    written = [event["seq"] for event in daemon.events()]
    assert written == list(range(1, len(written) + 1))
    assert all(found == written for found in everything)


def test_a_thousand_idle_clients_and_fifty_that_tail(qmond: StartQmond, build: Build) -> None:
    daemon = qmond(socket={"max_clients": 1100, "client_buffer": "64K"})
    resident = re.compile(r"VmRSS:\s+(\d+)")

    def memory() -> int:
        return int(resident.findall(Path(f"/proc/{daemon.pid}/status").read_text())[0])

    before = memory()
    clients = [Client(daemon.socket) for _ in range(1050)]
    for client in clients[:50]:
        client.tail()  # and nobody reads
    subprocess.run(["qemu-aarch64-static", build("storm", "aarch64"), "300000"], check=True)
    grown = memory() - before
    assert clients[-1].status()["counters"]["WRITE"]["lost"] == 0
    for client in clients:
        client.close()
    events = daemon.stop()
    assert sum(event.get("event") == "WRITE" for event in events) >= 300000
    assert grown < 50 * 64 * 2 + 1050 * 24  # kB: the buffers, and some for each connection


def test_the_other_operations(qmond: StartQmond) -> None:
    daemon = qmond(capture={"bytes": 100})
    with Client(daemon.socket) as client:
        assert client.about["oldest"] == 1
        assert client.about["newest"] >= 1
        assert set(client.about["capabilities"]) >= {"tail", "stop", "rotate", "events"}
        assert client.config()["capture"]["bytes"] == 100
        assert {event["name"] for event in client.events()} >= {"READ", "GAP", "END"}
        assert client.log_level() == "info"
        assert client.log_level("debug") == "debug"
        with pytest.raises(RequestError, match="one of debug"):
            client.log_level("loud")
        renamed = Path(client.rotate()["path"])
        assert renamed.parent == daemon.log
        assert renamed.read_bytes().count(b"\n") >= 1
        assert client.rotate() == {"path": None}, "there is nothing in it yet"
        with pytest.raises(RequestError, match="from_seq: the newest line is"):
            client.tail(from_seq=10**9)


def test_secrets_go_nowhere(qmond: StartQmond) -> None:
    daemon = qmond()
    guest = ["qemu-aarch64-static", str(BUSYBOX), "cat", "--token=abc123"]
    out: list[bytes] = []
    with Client(daemon.socket) as client:
        lines = client.tail()
        reading = threading.Thread(target=lambda: out.extend(lines))
        reading.start()
        subprocess.run(guest, input=b"password=hunter2\n", capture_output=True, check=False)
        guest[-1] = "-"
        subprocess.run(guest, input=b"password=hunter2\n", stdout=subprocess.DEVNULL, check=True)
        wait_until(lambda: any(b"password=*****" in line for line in out))
        events = daemon.stop()
        reading.join(10)
    told = json.dumps(events).encode() + b"".join(out)
    assert b"--token=*****" in told
    assert b"hunter2" not in told
    assert b"abc123" not in told
    assert [event["buf"] for event in events if event.get("event") == "READ"][-1:] == [
        "password=*****\n"
    ]


def test_tail_comes_back_and_misses_nothing(qmond: StartQmond, build: Build) -> None:
    """The daemon is killed and another one takes over, while a guest writes."""
    daemon = qmond()
    command = [
        str(QMONCTL),
        "--socket",
        str(daemon.socket),
        "tail",
        "--follow=retry",
        "--last",
        "1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tail:
        assert tail.stdout is not None
        got: list[bytes] = []
        reading = threading.Thread(target=got.extend, args=(tail.stdout,))
        reading.start()

        def told() -> int:
            last: int = json.loads(got[-1])["seq"]
            return last

        wait_until(lambda: got)
        with counting(build("count", "aarch64")) as guest:
            daemon.write()
            assert guest.runs
            daemon.kill()
            next_one = qmond(stored=daemon.stored)
            next_one.write()
            guest.end()
        wait_until(lambda: told() >= next_one.newest())
        newest = next_one.stop()[-1]["seq"]
        wait_until(lambda: told() >= newest)
        tail.terminate()
        reading.join()
    numbers = [json.loads(line)["seq"] for line in got]
    assert numbers == list(range(numbers[0], newest + 1))


def test_the_verbs_of_qmonctl(qmond: StartQmond) -> None:
    daemon = qmond(stats={"interval": "7s"})
    assert json.loads(daemon.ctl("config").stdout)["stats"]["interval"] == 7
    assert daemon.ctl("log-level", "warning").stdout == "warning\n"
    assert Path(daemon.ctl("rotate").stdout.strip()).exists()
    past = daemon.ctl("tail", "--since", "1h", "--no-follow", "--event", "start", "--json")
    assert json.loads(past.stdout)["event"] == "START"
    shown = daemon.ctl("tail", "--last", "1", "--no-follow", "-o", "short").stdout
    assert re.search(r"START\b.*message=\"Dynamic QEMU-user monitor started\"", shown)
    refused = daemon.ctl("tail", "--where", "fd ==")
    assert refused.returncode == 2
    assert "where: column 6" in refused.stderr
    assert "NOSUCH" in daemon.ctl("tail", "--not-event", "NOSUCH").stderr
