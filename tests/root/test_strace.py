"""What strace saw of the same run of the same guest: every call, every byte."""

from __future__ import annotations

import base64
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from conftest import Build, StartQmond
from truth import whole_lines

CLOSED_PORT = "9"
READS = ("read", "pread64", "readv", "preadv", "preadv2")
WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2")
CALL = re.compile(r"^(\d+) +(\w+)\((?:(\d+)|[\w-]+), (.*)\) += (-?\d+)")
TEXT = re.compile(r'^"((?:\\x..)*)"(?:\.\.\.)?, (\d+)')
PARTS = re.compile(r'\{iov_base=(?:"((?:\\x..)*)"|NULL|0x\w+), iov_len=(\d+)\}')
ADDRESS = re.compile(r"^(\d+) +(bind|connect)\((\d+), \{(.*)\}, \d+\) += ")
SOCKET_PATH = re.compile(r'sun_path=(@?)"((?:\\x..)*)"')
HOST = re.compile(r'(?:inet_addr\(|AF_INET6, )"((?:\\x..)*)"')
PORT = re.compile(r"_port=htons\((\d+)\)")
OPEN = re.compile(r'^(\d+) +openat\([^,]+, "((?:\\x..)*)"')

Calls = dict[int, list[tuple[object, ...]]]


@dataclass
class Truth:
    """What threads did: reads and writes as (fd, length, content, call), sizes as (size, call).

    Addresses are (call, address), of bind with its fd behind them.
    """

    read: Calls = field(default_factory=lambda: defaultdict(list))
    written: Calls = field(default_factory=lambda: defaultdict(list))
    sent: Calls = field(default_factory=lambda: defaultdict(list))
    received: Calls = field(default_factory=lambda: defaultdict(list))
    opened: dict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    addressed: Calls = field(default_factory=lambda: defaultdict(list))


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def told(name: str, own: str) -> tuple[str, ...]:
    """Return the call's name as an event tells it."""
    return () if name == own else (name,)


def address(text: str) -> bytes:
    """Return a struct sockaddr of strace's in the words of the event interface."""
    if path := SOCKET_PATH.search(text):
        return b"unix:" + path[1].encode() + unhex(path[2])
    host, port = HOST.search(text), PORT.search(text)
    assert host
    assert port
    name = unhex(host[1])
    return (b"[%b]:%d" if b":" in name else b"%b:%d") % (name, int(port[1]))


def strace_says(text: str) -> Truth:
    truth = Truth()
    for line in whole_lines(text):
        if match := OPEN.match(line):
            truth.opened[int(match[1])].append(unhex(match[2]))
        elif match := ADDRESS.match(line):
            descriptor = (int(match[3]),) if match[2] == "bind" else ()
            truth.addressed[int(match[1])].append((match[2], address(match[4]), *descriptor))
        elif match := CALL.match(line):
            tid, name, fd, arguments, result = int(match[1]), match[2], *match.group(3, 4, 5)
            parts = [(unhex(data), int(size)) for data, size in PARTS.findall(arguments)]
            size = sum(size for _, size in parts)
            if plain := TEXT.match(arguments):
                data, size = unhex(plain[1]), int(plain[2])
            else:
                data = b"".join(data for data, _ in parts)
            if name in READS and int(result) > 0:
                data = data[: int(result)]
                truth.read[tid].append((int(fd), int(result), data, *told(name, "read")))
            elif name in WRITES and size:
                truth.written[tid].append((int(fd), size, data, *told(name, "write")))
            elif name in ("sendmsg", "sendmmsg"):
                truth.sent[tid].append((size, *told(name, "sendto")))
            elif name in ("recvmsg", "recvmmsg"):
                truth.received[tid].append((size, *told(name, "recvfrom")))
    return truth


def qmond_says(events: list[dict[str, Any]]) -> Truth:
    truth = Truth()
    for event in events:
        kind, tid = event.get("event"), event.get("tid", 0)
        call = (event["call"],) if "call" in event else ()
        if kind in ("READ", "WRITE"):
            into = truth.read if kind == "READ" else truth.written
            into[tid].append((event["fd"], event["len"], exact(event, "buf"), *call))
        elif kind == "TRACK_OPENAT":
            truth.opened[tid].append(event["file"].encode())
        elif kind == "CONNECT":
            truth.addressed[tid].append(("connect", exact(event, "addr")))
        elif kind == "BIND":
            truth.addressed[tid].append(("bind", exact(event, "addr"), event["fd"]))
        elif kind == "SENDTO":
            truth.sent[tid].append((event["len"], *call))
        elif kind == "RECVFROM":
            truth.received[tid].append((event["size"], *call))
        assert not event.get("fault")
    return truth


def exact(event: dict[str, Any], key: str) -> bytes:
    if f"{key}_b64" in event:
        return base64.b64decode(event[f"{key}_b64"])
    text: str = event[key]
    return text.encode()


def run(command: list[str | Path], trace: Path) -> None:
    """Run a command under strace."""
    watched = ",".join(
        [*READS, *WRITES, "openat", "bind", "connect", "sendmsg", "sendmmsg", "recvmsg", "recvmmsg"]
    )
    options = ["-f", "-v", "-xx", "-s", "16384", "-o", str(trace), "-e", f"trace={watched}"]
    done = subprocess.run(["strace", *options, *command], capture_output=True, check=False)
    assert done.returncode == 7, done


@pytest.mark.parametrize("launch", ["direct", "binfmt"])
def test_reads_writes_opens_and_addresses_are_those_that_strace_saw(
    launch: str, qmond: StartQmond, build: Build, binfmt: Callable[[str], None], tmp_path: Path
) -> None:
    daemon = qmond(capture={"bytes": "16K"}, ring={"size": "16M"})
    guest = build("actions", "aarch64")
    command: list[str | Path] = [guest] if launch == "binfmt" else ["qemu-aarch64-static", guest]
    if launch == "binfmt":
        binfmt("aarch64")
    (tmp_path / "in").write_bytes(b"what the guest reads\n")
    run([*command, tmp_path, CLOSED_PORT], tmp_path / "strace")
    seen = qmond_says(daemon.stop())
    truth = strace_says((tmp_path / "strace").read_text())
    assert sum(map(len, truth.read.values())) >= 5
    assert sum(map(len, truth.written.values())) >= 5
    assert seen.read == truth.read
    assert seen.written == truth.written
    assert sum(map(len, truth.addressed.values())) == 8
    assert seen.addressed == truth.addressed
    # a character that is no UTF-8 is U+FFFD in a path
    assert seen.opened == {
        tid: [path.replace(b"\xff", "\ufffd".encode()) for path in paths]
        for tid, paths in truth.opened.items()
    }


@pytest.mark.parametrize("kind", ["guest", "native"])
def test_vectors_and_messages_are_those_that_strace_saw(
    kind: str, qmond: StartQmond, build: Build, tmp_path: Path
) -> None:
    daemon = qmond(capture={"bytes": "16K"}, ring={"size": "16M"})
    command: list[str | Path] = ["qemu-aarch64-static", build("vectors", "aarch64")]
    if kind == "native":
        command += ["exec", build("vectors", "native")]
    run([*command, tmp_path / "file"], tmp_path / "strace")
    events = daemon.stop()
    seen, truth = qmond_says(events), strace_says((tmp_path / "strace").read_text())
    rows = [row for calls in (truth.read, truth.written) for row in chain(*calls.values())]
    calls = {row[3] for row in rows if len(row) > 3}
    missing = {*READS, *WRITES} - calls - {"read", "write", "pread64", "pwrite64"}
    # what qemu-user does not know, it does not hand on
    assert missing == (set() if kind == "native" else {"preadv2", "pwritev2"})
    assert seen.read == truth.read
    assert seen.written == truth.written
    sizes = [size for calls in truth.sent.values() for size, *_ in calls]
    if kind == "native":
        assert sizes == [11, 16, 4400]
    assert seen.sent == truth.sent
    assert seen.received == truth.received
    rings = [event for event in events if event.get("event") == "IO_URING"]
    assert [(ring["entries"], ring["guest"]) for ring in rings] == (
        [(4, str(build("vectors", "native")))] if kind == "native" else []
    )


def test_a_vector_is_cut_where_the_capture_ends(
    qmond: StartQmond, build: Build, tmp_path: Path
) -> None:
    daemon = qmond(capture={"bytes": "13"})
    subprocess.run(
        ["qemu-aarch64-static", build("vectors", "aarch64"), tmp_path / "file"], check=False
    )
    written = [event for event in daemon.stop() if event.get("event") == "WRITE"]
    vector, *_, absent = [event for event in written if event.get("call") == "writev"]
    assert (exact(vector, "buf"), vector["len"]) == (b"first\n\xff secon", 20)
    assert vector["truncated"] is True
    # nobody had touched the pages that this one wrote from
    assert exact(absent, "buf") == b"<" + (tmp_path / "file").read_bytes()[:12]
    assert (absent["len"], absent["truncated"], absent.get("fault")) == (1002, True, None)
