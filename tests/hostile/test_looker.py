"""What a process can do to whoever looks at it: its memory, its files, its children."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from attack import LIBRARIES, attacking, compiled, mute, open_folder, planted
from conftest import Build, StartQmond
from harness import PATIENCE, Qmond, wait_until, waiting

PROMPT = 20
"""Seconds in which a daemon is ready that nobody holds, on a busy machine."""


def is_told_whole(daemon: Qmond, program: Path) -> int:
    """Run a guest that does no harm, and see that it is told from its start to its end."""
    with waiting("qemu-aarch64-static", program) as guest:
        guest.do(b"-")
    events = daemon.of(guest.pid)
    assert [event["event"] for event in events][:: len(events) - 1] == ["TRACK_ADOPT", "EXIT"]
    assert events[0]["guest"] == str(program)
    assert all(event["guest"] == str(program) for event in events)
    return guest.pid


def lookers(daemon: Qmond) -> list[int]:
    """Return the daemon's lookers, and those that it has left behind."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdigit() else []
            if b"qmond.looker.process" in words and words[-2] == str(daemon.pid).encode():
                found.append(int(folder.name))
    return found


def first(events: list[dict[str, Any]], pid: int) -> dict[str, Any]:
    """Return how a process came under watch."""
    (event,) = (e for e in events if e.get("event") == "TRACK_ADOPT" and e["pid"] == pid)
    return event


def test_memory_that_never_comes_holds_nobody(qmond: StartQmond, build: Build) -> None:
    program = build("waits", "aarch64")
    with open_folder() as folder:
        with mute(folder) as pid:
            daemon = qmond()
            assert daemon.ready_after < PROMPT
            is_told_whole(daemon, program)
            held = wait_until(lambda: [e for e in daemon.events() if e.get("pid") == pid])[0]
            assert (held["event"], held["uid"], held["arch"]) == ("TRACK_ADOPT", 65534, "mute")
            assert (held["guest"], held["argv"]) == (None, [])
            assert daemon.status()["left_behind"] == 1
            assert daemon.ctl("ps").returncode == 0
            daemon.end(PROMPT)
        wait_until(lambda: not lookers(daemon))


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_library_of_anybodys_is_only_its_own_loss(
    kind: str, qmond: StartQmond, build: Build
) -> None:
    program = build("waits", "aarch64")
    with open_folder() as folder:
        file, mapper = planted(kind, folder)
        daemon = qmond(stats={"budget": "10000000/s"})
        with attacking(mapper, file, folder=folder) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "mapped\n"
            wanted = "refused" if kind == "own" else "none"
            wait_until(lambda: daemon.status()["allocations"].get(wanted))
            with waiting("qemu-aarch64", program) as guest:
                wait_until(lambda: daemon.status()["allocations"].get("counted"))
            daemon.of(guest.pid)
        is_told_whole(daemon, program)
        daemon.end(PROMPT)
        wait_until(lambda: not lookers(daemon))


def test_who_forks_without_end_does_not_keep_a_daemon_from_starting(
    qmond: StartQmond, build: Build
) -> None:
    program = build("waits", "aarch64")
    with (
        open_folder() as folder,
        attacking(compiled("forker", folder), "60", folder=folder) as process,
    ):
        time.sleep(0.5)
        daemon = qmond()
        assert daemon.ready_after < PROMPT
        wait_until(lambda: [e for e in daemon.events() if e.get("pid") == process.pid])
        is_told_whole(daemon, program)
        assert daemon.status()["tracked"] > 0
        process.kill()
        daemon.end(PATIENCE)
    assert first(daemon.events(), process.pid)["uid"] == 65534


def test_cgroups_that_come_and_go_hold_nobody(qmond: StartQmond, build: Build) -> None:
    program = build("waits", "aarch64")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    root = next((Path(line[1]) for line in mounts if line[2] == "cgroup2"), None)
    if root is None:
        pytest.skip("needs cgroup v2")
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            folders = [root / f"qmond-{number}" for number in range(100)]
            for folder in folders:
                folder.mkdir(exist_ok=True)
            for folder in folders:
                folder.rmdir()

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        daemon = qmond()
        for _ in range(5):
            is_told_whole(daemon, program)
        assert daemon.status()["tracked"] == 0
    finally:
        done.set()
        churning.join()
