"""An abrupt end in the middle of a storm, and the next daemon: not an event missing, none twice.

The harness plays systemd's descriptor store.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from conftest import Build, StartQmond
from harness import PATIENCE, counting, wait_until, waiting


def test_not_an_event_is_missing_or_twice(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    """Killed five times while a guest writes lines that each say which one it is."""
    config = {"ring": {"size": "64M"}, "log": {"rotate": {"size": "1G"}}}
    daemon = qmond(**config)
    gaps = []
    with counting(build("count", "aarch64"), some=200, pause=5) as guest:
        for _ in range(5):
            daemon.write()
            time.sleep(random.uniform(0, 0.3))  # noqa: S311 - any moment will do
            assert guest.runs
            daemon.kill()
            died = time.monotonic()
            daemon = qmond(stored=daemon.stored, **config)
            gaps.append((died, time.monotonic()))
        daemon.write()
        lines = guest.end()
    status = daemon.status()["counters"]["WRITE"]
    assert status["lost"] == 0
    events = daemon.stop()  # checks the books since the first START
    assert (tmp_path / "log/events.jsonl").read_bytes().endswith(b"}\n")
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    mine = [e for e in events if e.get("event") == "WRITE" and e["pid"] == guest.pid]
    assert [e["buf"] for e in mine] == lines
    assert all(any(died < e["ts"] < again for e in mine) for died, again in gaps)
    resumed = [e.get("resumed", False) for e in events if e.get("event") == "START"]
    assert resumed == [False, True, True, True, True, True]
    assert {e["guest"] for e in events if e.get("pid") == guest.pid and "guest" in e} == {
        str(build("count", "aarch64"))
    }


DEATHS = {
    "before its batch is committed": """
from qmond.daemon.pipeline import Pipeline
def commit(self, end, commit=Pipeline._commit, calls=[0]):
    calls[0] += 1
    if calls[0] == 10: os.kill(os.getpid(), 9)
    commit(self, end)
Pipeline._commit = commit
""",
    "in the middle of a line": """
from qmond.log.writer import EventLog
def write(self, lines, write=EventLog.write, calls=[0]):
    calls[0] += 1
    if calls[0] == 10:
        os.write(self._fd, bytes(lines)[:-20])
        os.kill(os.getpid(), 9)
    write(self, lines)
EventLog.write = write
""",
    "with its batch alone in a new file": """
from qmond.log.writer import EventLog
from qmond.daemon.pipeline import Pipeline
def commit(self, end, commit=Pipeline._commit, calls=[0]):
    calls[0] += 1
    if calls[0] == 10: os.kill(os.getpid(), 9)
    commit(self, end)
def write(self, lines, write=EventLog.write, calls=[0]):
    calls[0] += 1
    if calls[0] == 9: self.rotate()
    write(self, lines)
Pipeline._commit, EventLog.write = commit, write
""",
}
"""Statements that end the daemon at the worst moment."""


@pytest.mark.parametrize("moment", DEATHS)
def test_what_was_not_committed_is_done_again(moment: str, qmond: StartQmond, build: Build) -> None:
    config = {"ring": {"size": "16M"}, "log": {"rotate": {"size": "1G"}}}
    daemon = qmond(patch="import os" + DEATHS[moment], **config)
    with counting(build("count", "aarch64")) as guest:
        assert daemon.process.wait(PATIENCE) == -9
        daemon.kill()
        daemon = qmond(stored=daemon.stored, **config)
        daemon.write()
        lines = guest.end()
    events = daemon.stop()
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    mine = [e["buf"] for e in events if e.get("event") == "WRITE" and e["pid"] == guest.pid]
    assert mine == lines


FAULT = """
import qmond.daemon.service
from qmond.daemon.status import Status
def summary(self, summary=Status.summary, calls=[0]):
    calls[0] += 1
    if calls[0] == 3: raise ZeroDivisionError("a fault of its own")
    return summary(self)
Status.summary = summary
"""


@pytest.mark.parametrize("settled", [0, 60])
def test_a_fault_of_its_own(settled: int, qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    """The next one goes on where it ended, but not where that may have been the state's fault."""
    lasted = settled == 0
    daemon = qmond(patch=f"{FAULT}qmond.daemon.service._SETTLED = {settled}", ring={"size": "16M"})
    with counting(build("count", "aarch64"), some=10, pause=5) as guest:
        assert daemon.process.wait(PATIENCE) == 1
        daemon.kill()
        assert "a fault of its own" in (tmp_path / "stderr").read_text()
        assert bool(daemon.stored) == lasted
        daemon = qmond(stored=daemon.stored, ring={"size": "16M"})
        daemon.write()
        lines = guest.end()
    events = daemon.stop()
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    mine = [e["buf"] for e in events if e.get("event") == "WRITE" and e["pid"] == guest.pid]
    assert (mine == lines) == lasted
    starts = [e for e in events if e.get("event") == "START"]
    assert ["resumed" in start for start in starts] == [False, lasted]


def test_it_knows_again_who_is_watched(qmond: StartQmond, build: Build) -> None:
    daemon = qmond()
    with waiting("qemu-aarch64", build("waits", "aarch64")) as guest:
        wait_until(lambda: daemon.status()["tracked"] == 1)
        daemon.kill()
        guest.do(b"f")
        daemon = qmond(stored=daemon.stored)
        assert daemon.status()["tracked"] == 1
        wait_until(lambda: daemon.status()["allocations"] == {"counted": 1})
        guest.do(b"f")
    events = daemon.of(guest.pid)
    names = [e["event"] for e in events if e["event"] in ("TRACK_ADOPT", "WAIT4_EXITED", "EXIT")]
    assert names == ["TRACK_ADOPT", "WAIT4_EXITED", "WAIT4_EXITED", "EXIT"]


def test_an_orderly_stop_empties_the_store(qmond: StartQmond) -> None:
    daemon = qmond()
    assert any(name.endswith(".map.events") for name in daemon.stored)
    daemon.stop()
    assert daemon.stored == {}


@pytest.mark.parametrize("change", ["another ring", "incomplete"])
def test_what_does_not_fit_is_left_alone(change: str, qmond: StartQmond, tmp_path: Path) -> None:
    daemon = qmond()
    daemon.kill()
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
