"""What a watched program can do to the kernel side: forge, crowd out, exhaust."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attack import attacked, attacking, compiled, open_folder
from conftest import Build, StartQmond
from harness import PATIENCE, Qmond, wait_until, waiting

CGROUPS = next(
    Path(line.split()[1])
    for line in Path("/proc/mounts").read_text().splitlines()
    if line.split()[2] == "cgroup2"
)


def watched(events: list[dict[str, Any]], name: str) -> int:
    """Return the process that came under watch with this file name."""
    (pid,) = (e["pid"] for e in events if e.get("event") == "TRACK_ADOPT" and e["bin"] == name)
    return int(pid)


def test_calls_of_32_bit_code_are_not_taken_for_others(qmond: StartQmond) -> None:
    daemon = qmond()
    with open_folder() as folder:
        said = attacked(compiled("compat", folder), folder=folder)
        assert (folder / "own/by-int80").read_text() == "forged", "they were made"
    assert said == "int80 1 6 1 1\nsegment 1\nown 1 1\nplain 1\n"
    events = daemon.stop()
    pid = watched(events, "qemu-compat")
    mine = [event for event in events if event.get("pid") == pid]
    told = [event["file"] for event in mine if event["event"] == "TRACK_OPENAT"]
    assert told == ["by-int80"], "the 64-bit one, and that alone"
    assert "forged" not in json.dumps([e for e in mine if e["event"] != "WRITE" or e["fd"] != 1])
    assert not any(event["event"] == "EXEC" for event in mine)


# ---- the ring ----------------------------------------------------------------------------------


@contextmanager
def stopped(daemon: Qmond) -> Iterator[None]:
    """Have the daemon stand still, so that nothing leaves the ring."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


@pytest.mark.parametrize("storm", ["execfail", "forks", "writes"])
def test_no_storm_pushes_out_what_another_guest_lives(
    storm: str, qmond: StartQmond, build: Build
) -> None:
    """It has filled the ring before the other one begins, and goes on meanwhile."""
    daemon = qmond(ring={"size": "1M"}, log={"rotate": {"size": "1G"}})
    with open_folder() as folder:
        if storm == "writes":
            program = shutil.copy(build("storm", "aarch64"), folder)
            command = ["qemu-aarch64-static", program, "100000000"]
        else:
            command = [compiled(storm, folder), "60", "8"]
        with stopped(daemon), attacking(*command, folder=folder) as attacker:
            time.sleep(2)
            assert attacker.poll() is None
            with waiting("qemu-aarch64-static", build("waits", "aarch64")) as guest:
                guest.do(b"fff")
    events = daemon.stop()
    name = {"execfail": "EXEC", "forks": "TRACK_FORK", "writes": "WRITE"}[storm]
    lost = events[-1]["totals"][name]["lost"]
    assert lost > 1000
    mine = [e for e in events if guest.pid in (e.get("pid"), e.get("parent"))]
    lives = [e["event"] for e in mine if e["event"] in ("TRACK_ADOPT", "TRACK_FORK", "EXIT")]
    assert lives == ["TRACK_ADOPT", *["TRACK_FORK"] * 3, "EXIT"]
    children = {e["child"] for e in mine if e["event"] == "TRACK_FORK"}
    ended = {e["pid"] for e in events if e.get("event") == "EXIT"}
    assert children <= ended


def test_a_tree_has_the_whole_ring_where_nobody_else_wants_it(
    qmond: StartQmond, build: Build
) -> None:
    """But for a sixteenth, which is for lives, and a ninth of the rest."""
    daemon = qmond(ring={"size": "1M"}, capture={"bytes": 0})
    with stopped(daemon):
        subprocess.run(["qemu-aarch64-static", build("storm", "aarch64"), "40000"], check=True)
    row = daemon.stop()[-1]["totals"]["WRITE"]
    assert row["written"] * 48 > 0.75 * (1 << 20)


# ---- shared tables -------------------------------------------------------------------------------


def test_many_late_pages_of_one_do_not_empty_anothers_paths(qmond: StartQmond) -> None:
    """Those who block keep what the kernel side remembers of them for as long as they like."""
    daemon = qmond()
    with open_folder() as folder:
        late = compiled("late", folder)
        os.mkfifo(folder / "own/fifo", 0o666)
        with attacking(late, "1100", "fifo", folder=folder) as attacker:
            assert attacker.stdout is not None
            assert attacker.stdout.readline() == "blocked\n"
            other = compiled("late", folder, called="qemu-other")
            attacked(other, "1", "/etc/hostname", folder=folder)
    events = daemon.stop()
    pid = watched(events, "qemu-other")
    opened = [e for e in events if e.get("event") == "TRACK_OPENAT" and e["pid"] == pid]
    assert opened[-1]["file"] == "/etc/hostname"
    assert "fault" not in opened[-1]


# ---- names ---------------------------------------------------------------------------------------


def is_empty(folder: bytes) -> bool:
    """Whether no process is in a cgroup any more."""
    return not Path(os.fsdecode(folder), "cgroup.procs").read_text()


@contextmanager
def cgroup(*names: bytes) -> Iterator[Path]:
    """Make cgroups one in the other; they are gone at the end."""
    made = []
    path = os.fsencode(CGROUPS)
    try:
        for name in names:
            path = os.path.join(path, name)
            os.mkdir(path)
            made.append(path)
        yield Path(os.fsdecode(path))
    finally:
        for folder in reversed(made):
            wait_until(functools.partial(is_empty, folder))
            os.rmdir(folder)


@pytest.mark.parametrize(
    "names",
    [
        (b"qmond-test",),
        (b"qmond-test", b"a b", b"machine-qmondtest.scope"),
        (b"qmond-test\xff\xfe", b"\x1b[2J"),
    ],
)
def test_any_cgroup_is_told_or_left_out(
    names: tuple[bytes, ...], qmond: StartQmond, build: Build
) -> None:
    daemon = qmond()
    with cgroup(*names) as path:
        join = 'echo $$ > "$0/cgroup.procs"; cat /proc/self/cgroup >&2; exec "$@"'
        guest = ["qemu-aarch64-static", str(build("waits", "aarch64"))]
        done = subprocess.run(
            [b"sh", b"-c", join.encode(), os.fsencode(path), *map(os.fsencode, guest)],
            input=b"", capture_output=True, check=True, timeout=PATIENCE,
        )  # fmt: skip
    (truth,) = [line for line in done.stderr.split(b"\n") if line.startswith(b"0::")]
    (adopted,) = [e for e in daemon.stop() if e.get("event") == "TRACK_ADOPT"]
    own = truth.removeprefix(b"0::").decode(errors="surrogateescape")
    assert adopted["cgroup"] == re.sub("[\udc80-\udcff]", "\ufffd", own)
    assert adopted["container"] == ("qmondtest" if len(names) == 3 else None)


def test_a_cgroup_that_is_too_deep_is_left_out(qmond: StartQmond, build: Build) -> None:
    daemon = qmond()
    with cgroup(*[b"qmond-deep"] * 20) as path:
        join = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
        subprocess.run(
            ["sh", "-c", join, path, "qemu-aarch64-static", build("waits", "aarch64")],
            input=b"", check=True,
        )  # fmt: skip
    (adopted,) = [e for e in daemon.stop() if e.get("event") == "TRACK_ADOPT"]
    assert adopted["cgroup"] is None


def test_a_path_that_was_cut_is_no_guest(qmond: StartQmond, build: Build) -> None:
    """Its words before it leave no room for it in what is read of a command line."""
    daemon = qmond()
    program = build("waits", "aarch64")
    command = ["qemu-aarch64-static", "-0", "x" * 4060, str(program)]
    subprocess.run(command, input=b"", check=True)
    (adopted,) = [e for e in daemon.stop() if e.get("event") == "TRACK_ADOPT"]
    assert adopted["truncated"] is True
    assert str(program).startswith(adopted["argv"][-1])
    assert adopted["argv"][-1] != str(program)
    assert adopted["guest"] is None


def test_the_longest_path_is_told_whole(qmond: StartQmond) -> None:
    daemon = qmond()
    with open_folder() as folder:
        program = compiled("execfail", folder)
        attacked(program, "1", "4089", folder=folder)
    lines = [e for e in daemon.stop() if e.get("event") == "EXEC"]
    assert {len(e["filename"]) for e in lines} == {4089}
    assert not any("truncated" in e for e in lines)
