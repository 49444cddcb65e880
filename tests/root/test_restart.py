"""An abrupt end in the middle of a storm, and the next daemon: not an event missing, none twice.

The harness plays systemd's descriptor store.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Build, StartQmond
from harness import Qmond, wait_until, waiting


def die(daemon: Qmond) -> None:
    """End a daemon by SIGKILL."""
    daemon.process.kill()
    daemon.process.wait()
    daemon.stopped = True


def test_not_an_event_is_missing_or_twice(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    """Killed five times while a guest writes lines that each say which one it is."""
    config = {"ring": {"size": "64M"}, "log": {"rotate": {"size": "1G"}}}
    daemon = qmond(**config)
    command = ["qemu-aarch64-static", str(build("count", "aarch64")), "300000"]
    with subprocess.Popen(command) as guest:
        for _ in range(5):
            time.sleep(random.uniform(0.05, 0.3))  # noqa: S311 - any moment will do
            die(daemon)
            daemon = qmond(stored=daemon.stored, **config)
        assert guest.wait(120) == 0
    status = daemon.status()["counters"]["WRITE"]
    assert status["lost"] == 0
    events = daemon.stop()  # checks the books since the first START
    assert (tmp_path / "log/events.jsonl").read_bytes().endswith(b"}\n")
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    mine = [e["buf"] for e in events if e.get("event") == "WRITE" and e["pid"] == guest.pid]
    assert mine == [f"{number:08}\n" for number in range(300_000)]
    resumed = [e.get("resumed", False) for e in events if e.get("event") == "START"]
    assert resumed == [False, True, True, True, True, True]
    assert {e["guest"] for e in events if e.get("pid") == guest.pid and "guest" in e} == {
        str(build("count", "aarch64"))
    }


DEATHS = {
    "before its batch is a fact": """
from qmond.daemon import Daemon
def commit(self, commit=Daemon._commit, calls=[0]):
    calls[0] += 1
    if calls[0] == 10: os.kill(os.getpid(), 9)
    commit(self)
Daemon._commit = commit
""",
    "in the middle of a line": """
from qmond.eventlog import EventLog
def write(self, lines, write=EventLog.write, calls=[0]):
    calls[0] += 1
    if calls[0] == 10:
        os.write(self._fd, bytes(lines)[:-20])
        os.kill(os.getpid(), 9)
    write(self, lines)
EventLog.write = write
""",
    "with its batch alone in a new file": """
from qmond.eventlog import EventLog
from qmond.daemon import Daemon
def commit(self, commit=Daemon._commit, calls=[0]):
    calls[0] += 1
    if calls[0] == 10: os.kill(os.getpid(), 9)
    commit(self)
def write(self, lines, write=EventLog.write, calls=[0]):
    calls[0] += 1
    if calls[0] == 9: self.rotate()
    write(self, lines)
Daemon._commit, EventLog.write = commit, write
""",
}
"""Statements that end the daemon at the worst moment."""


@pytest.mark.parametrize("moment", DEATHS)
def test_what_was_not_a_fact_is_done_again(moment: str, qmond: StartQmond, build: Build) -> None:
    config = {"ring": {"size": "16M"}, "log": {"rotate": {"size": "1G"}}}
    daemon = qmond(patch="import os" + DEATHS[moment], **config)
    command = ["qemu-aarch64-static", str(build("count", "aarch64")), "50000"]
    with subprocess.Popen(command) as guest:
        assert daemon.process.wait(20) == -9
        daemon.stopped = True
        daemon = qmond(stored=daemon.stored, **config)
        assert guest.wait(60) == 0
    events = daemon.stop()
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    mine = [e["buf"] for e in events if e.get("event") == "WRITE" and e["pid"] == guest.pid]
    assert mine == [f"{number:08}\n" for number in range(50_000)]


def test_it_knows_again_who_is_watched(qmond: StartQmond, build: Build) -> None:
    daemon = qmond()
    with waiting("qemu-aarch64", build("waits", "aarch64")) as guest:
        wait_until(lambda: daemon.status()["tracked"] == 1)
        die(daemon)
        guest.do(b"f")
        daemon = qmond(stored=daemon.stored)
        assert daemon.status()["tracked"] == 1
        wait_until(lambda: daemon.status()["allocations"] == {"counted": 1})
        guest.do(b"f")
    events = daemon.of(guest.pid)
    names = [e["event"] for e in events if e["event"] in ("TRACK_ADOPT", "WAIT4_EXITED", "EXIT")]
    assert names == ["TRACK_ADOPT", "WAIT4_EXITED", "WAIT4_EXITED", "EXIT"]


def test_an_orderly_stop_empties_the_store(qmond: StartQmond, tmp_path: Path) -> None:
    daemon = qmond(
        patch=f"""
import qmond.store
def forget(names, path={str(tmp_path / "forgotten")!r}):
    open(path, "w").write(" ".join(names))
qmond.store.forget = forget
"""
    )
    names = set(daemon.stored)
    assert any(name.endswith(".map.events") for name in names)
    daemon.stop()
    assert set((tmp_path / "forgotten").read_text().split()) == names


@pytest.mark.parametrize("change", ["another ring", "incomplete"])
def test_what_does_not_fit_is_left_alone(change: str, qmond: StartQmond, tmp_path: Path) -> None:
    daemon = qmond()
    die(daemon)
    stored, size = daemon.stored, "16M"
    if change == "incomplete":
        os.close(stored.pop(next(name for name in stored if name.endswith("sys_exit"))))
    else:
        size = "4M"
    daemon = qmond(stored=stored, ring={"size": size})
    said = (tmp_path / "stderr").read_text()
    assert "what is in the descriptor store does not fit this qmond: loading anew" in said
    starts = [e for e in daemon.stop() if e.get("event") == "START"]
    assert ["resumed" in start for start in starts] == [False, False]
