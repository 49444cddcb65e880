"""Allocation statistics: what bpftrace counted in the same process, and where they must not be."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Build, StartQmond
from harness import wait_until, waiting

PERF = """
import functools, qmond.daemon.service
qmond.daemon.service.Options = functools.partial(qmond.daemon.service.Options, multi=False)
"""
"""As on a kernel without uprobe_multi."""


def counted(events: list[dict[str, Any]], name: str, pid: int) -> int:
    return sum(e["meta"]["by_pid"].get(str(pid), 0) for e in events if e.get("evt") == name)


@pytest.mark.parametrize("links", ["multi", "perf"])
def test_counts_are_those_of_bpftrace(links: str, qmond: StartQmond, build: Build) -> None:
    """A guest that waits at both ends: what is counted in between is the same for both."""

    def told() -> list[dict[str, Any]]:
        """Return all events, when the figures of an interval are there that ended after now."""
        with waiting("qemu-aarch64", build("waits", "aarch64")) as later:

            def ended() -> list[dict[str, Any]]:
                later.do(b"t")
                events = daemon.events()
                names = ("ALLOC_SUM", "FREE_SUM")
                return events if all(counted(events, name, later.pid) for name in names) else []

            return wait_until(ended)

    daemon = qmond(stats={"budget": "10000000/s"}, patch="" if links == "multi" else PERF)
    with waiting("qemu-aarch64", build("waits", "aarch64")) as guest:

        def until_counting() -> int:
            guest.do(b"t")
            return counted(daemon.events(), "ALLOC_SUM", guest.pid)

        wait_until(until_counting)
        maps = Path(f"/proc/{guest.pid}/maps").read_text()
        libc = re.search(r"\S*/libc\.so\.6$", maps, re.MULTILINE)
        assert libc is not None
        at = f"uprobe:{libc[0]}:"
        mine = f"/pid == {guest.pid}/"
        program = (
            f"{at}malloc,{at}calloc,{at}realloc {mine} {{ @a = count(); }} "
            f"{at}free {mine} {{ @f = count(); }} "
            'BEGIN { printf("on\\n"); }'
        )
        command = ["bpftrace", "-e", program]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            while "on" not in other.stdout.readline():
                pass
            before = told()
            for _ in range(5):
                guest.do(b"t")
            after = told()
            other.send_signal(signal.SIGINT)
            said = other.stdout.read()
    true = {name: int(count) for name, count in re.findall(r"@(\w): (\d+)", said)}
    for key, name in (("a", "ALLOC_SUM"), ("f", "FREE_SUM")):
        assert true[key] > 0
        assert counted(after, name, guest.pid) - counted(before, name, guest.pid) == true[key]


def test_can_be_turned_off(qmond: StartQmond, build: Build) -> None:
    daemon = qmond(stats={"allocations": False, "interval": "100ms"})
    subprocess.run(["qemu-aarch64", build("waits", "aarch64")], input=b"tttttttt", check=True)
    events = daemon.stop()
    assert {e["evt"] for e in events if "evt" in e} == {"MMAP_SUM"}
    assert {e["allocations"] for e in events if e.get("event") == "TRACK_ADOPT"} == {"off"}


def test_an_interval_that_ends_as_the_daemon_stops_is_told(qmond: StartQmond, build: Build) -> None:
    daemon = qmond(
        stats={"interval": "1s"},
        patch="import qmond.daemon.timers; qmond.daemon.timers._SETTLE = 60",
    )
    guest = subprocess.Popen(["qemu-aarch64", build("waits", "aarch64")], stdin=subprocess.DEVNULL)
    with guest:
        pass
    time.sleep(1.1)  # the interval has ended, and is left to settle
    assert counted(daemon.events(), "MMAP_SUM", guest.pid) == 0
    assert counted(daemon.stop(), "MMAP_SUM", guest.pid) > 0


def test_where_they_cannot_be_had_it_is_said(
    qmond: StartQmond, build: Build, binfmt: Callable[[str], None]
) -> None:
    daemon = qmond()
    guest = build("waits", "aarch64")
    binfmt("aarch64")
    said = {}
    for command in (["qemu-aarch64", guest], ["qemu-aarch64-static", guest], [guest]):
        with waiting(*command) as process:
            found = wait_until(lambda: [e for e in daemon.events() if e.get("pid") == process.pid])
            adopted = found[0]
            processes = json.loads(daemon.ctl("ps", "--json").stdout)
            (listed,) = [p for p in processes if p["pid"] == process.pid]
            said[adopted["bin"], adopted["launch"]] = adopted["allocations"]
            assert adopted["allocations"] == "counted" or listed["allocations"] == "static"
            wait_until(lambda: sum(daemon.status()["allocations"].values()) == 1)
    done = subprocess.run(["qemu-x86_64", "/bin/true"], check=False)
    assert done.returncode == 0
    adopted = next(e for e in daemon.stop() if e.get("bin") == "qemu-x86_64")
    assert adopted["allocations"] == "unsafe"
    assert said == {
        ("qemu-aarch64", "direct"): "counted",
        ("qemu-aarch64-static", "direct"): "static",
        ("qemu-aarch64-static", "binfmt"): "static",
    }


def test_a_process_over_its_budget_is_left_alone_for_a_while(
    qmond: StartQmond, build: Build
) -> None:
    patch = "import qmond.daemon.allocations; qmond.daemon.allocations.PAUSE = 1.0"
    daemon = qmond(stats={"budget": "3000/s"}, patch=patch)

    def state(of: str) -> bool:
        (process,) = json.loads(daemon.ctl("ps", "--json").stdout)
        found: str = process["allocations"]
        return found == of

    with waiting("qemu-aarch64", build("waits", "aarch64")) as guest:
        wait_until(lambda: state("counted"))
        guest.do(b"t")  # tens of thousands of allocations
        assert not state("counted")
        wait_until(lambda: state("counted"))  # it is given another chance
        guest.do(b"-")
    sums = [e["meta"] for e in daemon.stop() if e.get("evt") == "ALLOC_SUM"]
    assert any(guest.pid in meta.get("partial", ()) for meta in sums)
