"""Every event of a guest whose every action is known, against what it did by its own account."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import StartQmond

from qmond.events.schema import original_keys, schema
from qmond.events.table import BY_NAME

CLOSED_PORT = 9  # discard: nothing listens there
HARD = b'line\nquote" back\\slash\tNUL\0after \x01\x1b[31m\x7f \xff\xc3(\xe2\x82 end \xe2\x82\xac'
CONTENT = b"what the guest reads\n"

Event = dict[str, Any]


VALIDATORS = {shape["title"]: jsonschema.Draft202012Validator(shape) for shape in schema()["oneOf"]}


def check_schema(events: list[Event]) -> None:
    """Hold every line against its type's schema, and one of each type against the whole."""
    by_name = {event.get("event") or event["evt"]: event for event in events}
    for event in events:
        VALIDATORS[event.get("event") or event["evt"]].validate(event)
    for event in by_name.values():
        jsonschema.validate(event, schema())


class Run:
    """One run of the guest: what it told of itself."""

    def __init__(self, command: list[str | Path], folder: Path) -> None:
        (folder / "in").write_bytes(CONTENT)
        self.folder = folder
        done = subprocess.run(
            [*command, folder, str(CLOSED_PORT)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 7, done
        told = done.stdout.replace("from a native program\n", "")
        self.told = {
            key: int(value) for key, _, value in (line.partition("=") for line in told.split())
        }
        self.pid = self.told["pid"]


def one(events: list[Event], name: str, **keys: object) -> Event:
    """Return the one event with these keys."""
    found = [
        e for e in events if e.get("event") == name and all(e.get(k) == v for k, v in keys.items())
    ]
    assert len(found) == 1, (name, keys, found)
    return found[0]


def check(events: list[Event], run: Run, arch: str) -> None:
    """Compare the guest's own process and its children with what it did."""
    mine = [event for event in events if event.get("pid") == run.pid]
    told = run.told

    path = str(run.folder / "in")
    opened = one(mine, "TRACK_OPENAT", file=path)
    assert opened["bin"] == "qemu-" + arch + "-static"
    assert opened["arch"] == arch
    one(mine, "TRACK_OPENAT", file=str(run.folder / "out"))
    one(mine, "TRACK_OPENAT", file="/no/such/\ufffdfile")

    at = mine.index(opened)
    read = next(e for e in mine[at:] if e["event"] == "READ")
    assert (read["fd"], read["buf"], read["len"]) == (told["in"], CONTENT.decode(), told["read"])
    assert "truncated" not in read

    writes = [e for e in mine if e["event"] == "WRITE" and e["fd"] == told["out"]]
    assert [e["len"] for e in writes] == [len(HARD), 999, 10]
    hard, large, positioned = writes
    text = HARD.decode(errors="surrogateescape")
    assert hard["buf"] == "".join("\ufffd" if c > "\ud800" and c < "\ue000" else c for c in text)
    assert base64.b64decode(hard["buf_b64"]) == HARD
    assert large["buf"] == "\u20ac" * 85  # 255 of 256 bytes: the last character was cut
    assert large["truncated"] is True
    assert "buf_b64" not in large
    assert (positioned["buf"], positioned["call"]) == ("positioned", "pwrite64")

    one(mine, "READLINKAT", path="/proc/self/cwd")
    dup = one(mine, "DUP2", newfd=50)
    assert dup["oldfd"] == told["out"]
    assert told["dup"] == 50

    sockets = [(e["domain"], e["type"]) for e in mine if e["event"] == "SOCKET"]
    assert sockets == [(2, 1), (10, 1), (1, 1)]
    assert [e["addr"] for e in mine if e["event"] == "CONNECT"] == [
        f"127.0.0.1:{CLOSED_PORT}",
        f"[::1]:{CLOSED_PORT}",
        "unix:/no/such.sock",
        "unix:@abstract",
    ]
    assert [(e["fd"], e["addr"], e.get("addr_b64")) for e in mine if e["event"] == "BIND"] == [
        (told["four"], "127.0.0.1:0", None),
        (told["six"], "[::1]:0", None),
        (told["local"], "unix:/no/such\ufffd", base64.b64encode(b"unix:/no/such\xff").decode()),
        (told["local"], "unix:@abstract", None),
    ]
    assert [e["len"] for e in mine if e["event"] == "SENDTO"] == [5]
    assert [e["size"] for e in mine if e["event"] == "RECVFROM"] == [99]

    after = mine[mine.index(one(mine, "SENDTO")) :]
    protections = [(e["read"], e["write"], e["exec"]) for e in after if e["event"] == "MPROTECT"]
    assert protections[:3] == [(0, 0, 0), (1, 0, 0), (1, 1, 0)]
    assert "MADV_DONTNEED" in [e["advice"] for e in after if e["event"] == "MADVICE"]

    forks = [
        e["child"] for e in events if e.get("event") == "TRACK_FORK" and e["parent"] == run.pid
    ]
    assert forks == [told["exec"], told["other"]]
    assert [e["reaped_child"] for e in mine if e["event"] == "WAIT4_EXITED"] == forks
    execed = one(events, "EXEC", pid=told["exec"])
    assert execed["filename"] == "/bin/echo"
    native = one(events, "WRITE", pid=told["exec"])
    assert (native["buf"], native["guest"]) == ("from a native program\n", "/bin/echo")
    assert "arch" not in native
    assert one(events, "SETUID", pid=told["other"])["uid"] == 12345
    assert one(events, "EXIT", pid=told["other"])["code"] == 3
    assert (one(mine, "EXIT")["code"], one(mine, "EXIT")["signal"]) == (7, None)

    # SIGCHLD twice, and the guest's own
    assert sorted(e["sig"] for e in mine if e["event"] == "SIGNAL_GENERATE") == [10, 17, 17]
    threads = {e["tid"] for e in mine if "tid" in e}
    switches = [e for e in events if e.get("event") == "SCHED_SWITCH"]
    assert any(e["prev_pid"] in threads for e in switches)
    assert any(e["next_pid"] in threads for e in switches)


@pytest.mark.parametrize("arch", ["aarch64", "arm", "riscv64"])
@pytest.mark.parametrize("launch", ["direct", "binfmt"])
def test_each_event_says_what_the_guest_did(
    arch: str,
    launch: str,
    qmond: StartQmond,
    build: Callable[[str, str], Path],
    binfmt: Callable[[str], None],
    tmp_path: Path,
) -> None:
    daemon = qmond()
    guest = build("actions", arch)
    if launch == "binfmt":
        binfmt(arch)
        run = Run([guest], tmp_path)
    else:
        run = Run([f"qemu-{arch}-static", guest], tmp_path)
    mine = daemon.of(run.pid)
    events = daemon.stop()
    check(events, run, arch)

    adopted = one(mine, "TRACK_ADOPT")
    assert mine[0] == adopted, "nothing comes before a process is under watch"
    assert (adopted["origin"], adopted["arch"], adopted["uid"]) == ("exec", arch, 0)
    assert adopted["guest"] == str(guest)
    assert adopted["argv"][-2:] == [str(tmp_path), str(CLOSED_PORT)]
    assert all(e["guest"] == str(guest) for e in mine if "guest" in e)

    pages = [e["meta"] for e in events if e.get("evt") == "MMAP_SUM"]
    assert max(meta["max_pages"] for meta in pages) >= 77

    check_schema(events)
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))


def test_fields_original_has_the_original_keys_in_their_order(
    qmond: StartQmond, build: Callable[[str, str], Path], tmp_path: Path
) -> None:
    daemon = qmond(fields="original")
    run = Run(["qemu-aarch64-static", build("actions", "aarch64")], tmp_path)
    daemon.of(run.pid)
    events = daemon.stop()
    kinds = set()
    for event in events:
        name = event.get("event") or event["evt"]
        kinds.add(name)
        assert tuple(event) == original_keys(BY_NAME[name])
    check_schema(events)
    meta = [tuple(e["meta"]) for e in events if e.get("evt") == "MMAP_SUM"]
    assert meta
    assert set(meta) == {("count", "max_pages")}
    assert {"START", "END", "READ", "WRITE", "CONNECT", "TRACK_FORK"} <= kinds
