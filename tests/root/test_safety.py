"""No guest behaves otherwise or dies because it is watched: each rule that holds, and why it must.

Every rule is shown twice: with it nobody is harmed, and taken out it is missed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Build, StartQmond
from harness import PATIENCE, Qmond, wait_until, waiting

LOOKER = """
import sys
from qmond.looker import asking
begin = "from qmond.looker.process import main; main()"
asking.COMMAND = (sys.executable, "-P", "-c", {!r} + begin)
"""
"""Statements by which a looker begins with others."""

NO_RULE = {
    "architecture": """
from qmond.daemon import allocations
allocations.is_safe = lambda arch, host: arch is not None
""",
    "exec": """
from qmond.daemon.guard import Guard
Guard._take_out_urgently = lambda self: self._probes.urgently()
Guard.take_out = lambda self, place: None
""",
    "mapping": LOOKER.format("""
from qmond.bpf import uprobes
def find(data, before=uprobes.parse_maps):
    mine = [line for line in data.splitlines() if b"r--p 00000000" not in line]
    return before(b"\\n".join(mine))
uprobes.parse_maps = find
"""),
    "one process": LOOKER.format("""
from qmond.bpf import uprobes
uprobes._multi = lambda program, path, offsets, pid, multi=uprobes._multi: multi(
    program, path, offsets, 0)
"""),
}
"""Statements that take a rule out of the daemon."""

STATS = {"interval": "100ms", "budget": "10000000/s"}
"""No process is left alone because it allocates too often."""

LIST = ["/bin/ls", "-l", "/usr/bin"]


def outcomes(command: list[str | Path], times: int) -> set[tuple[int, bytes]]:
    """Return what a command does, in several runs: exit status and output."""
    runs = (subprocess.run(command, capture_output=True, check=False) for _ in range(times))
    return {(run.returncode, run.stdout) for run in runs}


@pytest.mark.parametrize("ruled", [True, False])
@pytest.mark.parametrize(
    "command", [["qemu-x86_64", "/bin/echo", "hi"], ["qemu-x86_64-static", "/bin/ls", "/"]]
)
def test_a_guest_that_maps_the_hosts_libc_is_not_probed(
    command: list[str | Path],
    ruled: bool,  # noqa: FBT001
    qmond: StartQmond,
    build: Build,
) -> None:
    """It would read the breakpoints as its own code, and end by SIGTRAP."""
    unwatched = outcomes(command, 1)
    assert {status for status, _ in unwatched} == {0}
    daemon = qmond(patch="" if ruled else NO_RULE["architecture"], stats=STATS)
    watched = outcomes(command, 5)
    with waiting("qemu-aarch64", build("waits", "aarch64")) as other:
        wait_until(lambda: is_counted(daemon, other.pid))
        watched |= outcomes(command, 5)
    if ruled or command[0] == "qemu-x86_64-static":  # that one has no library to probe
        assert watched == unwatched
    else:
        assert watched - unwatched


def is_counted(daemon: Qmond, pid: int) -> bool:
    """Whether the daemon has probes in a process."""
    processes = json.loads(daemon.ctl("ps", "--json").stdout)
    return any(p["pid"] == pid and p["allocations"] == "counted" for p in processes)


@pytest.mark.parametrize("ruled", [True, False])
def test_probes_are_gone_before_a_process_becomes_a_guest_of_the_host(
    ruled: bool,  # noqa: FBT001
    qmond: StartQmond,
    build: Build,
) -> None:
    unwatched = outcomes(["qemu-x86_64", *LIST], 1)
    daemon = qmond(patch="" if ruled else NO_RULE["exec"], stats=STATS)
    guest_program = str(build("waits", "aarch64"))
    command = ["qemu-aarch64", guest_program, "/usr/bin/qemu-x86_64", *LIST]
    watched = set()
    for _ in range(3):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
            wait_until(lambda: is_counted(daemon, guest.pid))
            out, _ = guest.communicate(b"x")
            watched.add((guest.returncode, out))
    if ruled:
        assert watched == unwatched
    else:
        assert watched - unwatched


@pytest.mark.parametrize("ruled", [True, False])
def test_a_library_that_the_guest_has_mapped_is_not_probed(
    ruled: bool,  # noqa: FBT001
    qmond: StartQmond,
    build: Build,
) -> None:
    """A guest that looks at the file, or runs it by an emulator of its own, sees it unchanged."""
    maps = Path("/proc/self/maps").read_text()
    libc = re.search(r"\S*/libc\.so\.6$", maps, re.MULTILINE)
    assert libc is not None
    command = ["qemu-aarch64", str(build("maps", "aarch64")), libc[0]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None

        def look() -> bytes:
            assert guest.stdin is not None
            assert guest.stdout is not None
            guest.stdin.write(b"-")
            guest.stdin.flush()
            return guest.stdout.readline()

        unwatched = look()
        daemon = qmond(patch="" if ruled else NO_RULE["mapping"], stats=STATS)
        if ruled:
            wait_until(lambda: daemon.status()["allocations"] == {"unsafe": 1})
        else:
            wait_until(lambda: is_counted(daemon, guest.pid))
        assert (look() == unwatched) == ruled
        guest.stdin.close()


@pytest.mark.parametrize("ruled", [True, False])
def test_a_process_that_is_not_qemus_has_no_probes(
    ruled: bool,  # noqa: FBT001
    qmond: StartQmond,
    build: Build,
) -> None:
    daemon = qmond(patch="" if ruled else NO_RULE["one process"], stats=STATS)
    with waiting("qemu-aarch64", build("waits", "aarch64")) as guest:
        wait_until(lambda: is_counted(daemon, guest.pid))
        with subprocess.Popen([sys.executable, "-c", "import json"]) as other:
            other.wait(PATIENCE)
        guest.do(b"t")
        time.sleep(0.3)
    counted = {
        int(pid)
        for event in daemon.stop()
        if event.get("evt") == "ALLOC_SUM"
        for pid in event["meta"]["by_pid"]
    }
    assert guest.pid in counted
    assert (other.pid in counted) == (not ruled)


def test_an_arm_suite_does_the_same_watched_and_unwatched(
    qmond: StartQmond, build: Build, tmp_path: Path
) -> None:
    """With the dynamic interpreter, so that every probe is on."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "in").write_bytes(b"what the guest reads\n")
    suite: list[list[str | Path]] = [
        ["qemu-arm", build("vectors", "arm"), work / "file"],
        ["qemu-arm", build("waits", "arm"), "/bin/echo", "from a native program"],
        ["qemu-arm", build("maps", "arm"), work / "in"],
        ["qemu-arm", build("maps", "arm"), build("waits", "arm")],
    ]

    def results() -> list[tuple[int, bytes, bytes]]:
        found = []
        for command in suite:
            done = subprocess.run(command, input=b"-tffe-", capture_output=True, check=False)
            found.append((done.returncode, done.stdout, done.stderr))
        return [*found, (0, (work / "file").read_bytes(), b"")]

    unwatched = results()
    assert [status for status, _, _ in unwatched] == [7, 0, 0, 0, 0]
    qmond()
    for _ in range(3):
        assert results() == unwatched
