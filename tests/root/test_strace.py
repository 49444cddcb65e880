"""What strace saw of the same run of the same guest: every call, every byte."""

from __future__ import annotations

import base64
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import StartQmond

CLOSED_PORT = "9"
CALL = re.compile(
    r'^(\d+) +(\w+)\((?:(\d+)|[\w-]+), "((?:\\x..)*)"(?:\.\.\.)?(?:, .*)?\) += (-?\d+)'
)
UNFINISHED = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
OPEN = re.compile(r'^(\d+) +openat\([^,]+, "((?:\\x..)*)"')

Calls = dict[int, list[tuple[object, ...]]]


def whole_lines(text: str) -> list[str]:
    """Return strace's lines with the calls that another one interrupted put together again."""
    lines, waiting = [], {}
    for line in text.splitlines():
        if match := UNFINISHED.match(line):
            waiting[match[1]] = line.removesuffix(" <unfinished ...>")
        elif match := RESUMED.match(line):
            lines.append(waiting.pop(match[1]) + match[2])
        else:
            lines.append(line)
    return lines


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def strace_says(text: str) -> tuple[Calls, Calls, dict[int, list[bytes]]]:
    """Return by thread what was read, written and opened."""
    reads: Calls = defaultdict(list)
    writes: Calls = defaultdict(list)
    opened: dict[int, list[bytes]] = defaultdict(list)
    for line in whole_lines(text):
        if match := OPEN.match(line):
            opened[int(match[1])].append(unhex(match[2]))
        elif match := CALL.match(line):
            tid, name, fd, data, result = match.groups()
            if name in ("read", "pread64") and int(result) > 0:
                reads[int(tid)].append((int(fd), unhex(data)))
            elif name in ("write", "pwrite64") and data:
                writes[int(tid)].append((int(fd), unhex(data)))
    return reads, writes, opened


def content(event: dict[str, Any]) -> bytes:
    if "buf_b64" in event:
        return base64.b64decode(event["buf_b64"])
    buf: str = event["buf"]
    return buf.encode()


@pytest.mark.parametrize("launch", ["direct", "binfmt"])
def test_reads_writes_and_opens_are_those_that_strace_saw(
    launch: str,
    qmond: StartQmond,
    build: Callable[[str, str], Path],
    binfmt: Callable[[str], None],
    tmp_path: Path,
) -> None:
    daemon = qmond(capture={"bytes": "16K"}, ring={"size": "16M"})
    guest = build("actions", "aarch64")
    command: list[str | Path] = [guest] if launch == "binfmt" else ["qemu-aarch64-static", guest]
    if launch == "binfmt":
        binfmt("aarch64")
    (tmp_path / "in").write_bytes(b"what the guest reads\n")
    trace = tmp_path / "strace"
    watched = "read,write,pread64,pwrite64,openat"
    options = ["-f", "-xx", "-s", "16384", "-o", str(trace), "-e", f"trace={watched}"]
    done = subprocess.run(
        ["strace", *options, *command, tmp_path, CLOSED_PORT], capture_output=True, check=False
    )
    assert done.returncode == 7
    told = re.search(rb"pid=(\d+)", done.stdout)
    assert told is not None
    daemon.of(int(told[1]))

    reads: Calls = defaultdict(list)
    writes: Calls = defaultdict(list)
    opened: dict[int, list[bytes]] = defaultdict(list)
    for event in daemon.stop():
        if event.get("event") == "READ":
            reads[event["tid"]].append((event["fd"], content(event)))
        elif event.get("event") == "WRITE":
            writes[event["tid"]].append((event["fd"], content(event)))
        elif event.get("event") == "TRACK_OPENAT":
            opened[event["tid"]].append(event["file"].encode())
        assert not event.get("fault")
    true_reads, true_writes, true_opened = strace_says(trace.read_text())
    assert sum(map(len, true_reads.values())) >= 5
    assert sum(map(len, true_writes.values())) >= 5
    assert reads == true_reads
    assert writes == true_writes
    # a character that is no UTF-8 is U+FFFD in a path
    assert opened == {
        tid: [path.replace(b"\xff", "\ufffd".encode()) for path in paths]
        for tid, paths in true_opened.items()
    }
