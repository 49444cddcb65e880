"""Allocation statistics: what bpftrace counted in the same process, and where they must not be."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import StartQmond, wait_until, waiting

Build = Callable[[str, str], Path]


def counted(events: list[dict[str, Any]], name: str, pid: int) -> int:
    return sum(e["meta"]["by_pid"].get(str(pid), 0) for e in events if e.get("evt") == name)


def test_counts_are_those_of_bpftrace(qmond: StartQmond, build: Build) -> None:
    """A guest that waits at both ends: what is counted in between is the same for both."""
    daemon = qmond()
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
            time.sleep(1.2)  # whatever came before is in an interval that has been told
            before = daemon.events()
            for _ in range(5):
                guest.do(b"t")
            time.sleep(1.2)
            after = daemon.events()
            other.send_signal(signal.SIGINT)
            said = other.stdout.read()
    true = {name: int(count) for name, count in re.findall(r"@(\w): (\d+)", said)}
    for key, name in (("a", "ALLOC_SUM"), ("f", "FREE_SUM")):
        assert true[key] > 0
        assert counted(after, name, guest.pid) - counted(before, name, guest.pid) == true[key]


@pytest.mark.parametrize(
    "command", [["qemu-x86_64", "/bin/echo", "hi"], ["qemu-x86_64-static", "/bin/ls", "/"]]
)
def test_a_guest_that_maps_the_hosts_libc_is_unharmed(
    command: list[str], qmond: StartQmond
) -> None:
    """A breakpoint in libc would end it by SIGTRAP."""
    unwatched = subprocess.run(command, capture_output=True, check=True).stdout
    daemon = qmond()
    with subprocess.Popen(["qemu-aarch64", "--help"], stdout=subprocess.DEVNULL) as other:
        other.wait(10)
    for _ in range(3):
        assert subprocess.run(command, capture_output=True, check=True).stdout == unwatched
    events = daemon.stop()
    assert len([e for e in events if e.get("event") == "EXIT" and e["code"] == 0]) >= 3


def test_can_be_turned_off(qmond: StartQmond, build: Build) -> None:
    daemon = qmond(stats={"allocations": False, "interval": "100ms"})
    subprocess.run(["qemu-aarch64", build("waits", "aarch64")], input=b"tttttttt", check=True)
    assert {e["evt"] for e in daemon.stop() if "evt" in e} == {"MMAP_SUM"}
