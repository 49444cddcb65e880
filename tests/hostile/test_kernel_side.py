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
from dataclasses import replace
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from attack import attacked, attacking, compiled, open_folder
from conftest import Build, StartQmond
from harness import PATIENCE, Qmond, wait_until, waiting

from qmond.bpf.load import Options
from qmond.bpf.probes import Probes, Settings
from qmond.events.records import OTHERS, RECORD_FORMAT
from qmond.events.table import NUMBER

CGROUPS = next(
    Path(line.split()[1])
    for line in Path("/proc/mounts").read_text().splitlines()
    if line.split()[2] == "cgroup2"
)


PATH_MAX = 4096
"""Linux' limit, with the NUL."""
BUCKETS, ROWS = 16384, 8192
"""How many there are in the kernel side's tables of limits and statistics."""
NOBODY = (1 << 22) - 1
"""The highest number that there is for a process: PID_MAX_LIMIT less 1, proc(5)."""


def watched(events: list[dict[str, Any]], name: str) -> int:
    """Return the process that came under watch with this file name."""
    (pid,) = (e["pid"] for e in events if e.get("event") == "TRACK_ADOPT" and e["bin"] == name)
    return int(pid)


def test_calls_of_32_bit_code_are_not_taken_for_others(qmond: StartQmond) -> None:
    daemon = qmond()
    with open_folder() as folder:
        said = attacked(compiled("compat", folder), folder=folder)
        assert (folder / "own/by-int80").read_text() == "forged", "they were made"
    assert said == "int80 1 6 1 1\nsegment 1\nown 1 1\nx32 1\nplain 1\n"
    events = daemon.stop()
    pid = watched(events, "qemu-compat")
    mine = [event for event in events if event.get("pid") == pid]
    told = [event["file"] for event in mine if event["event"] == "TRACK_OPENAT"]
    assert told == ["by-int80"], "the 64-bit one, and that alone"
    assert "forged" not in json.dumps([e for e in mine if e["event"] != "WRITE" or e["fd"] != 1])
    assert not any(event["event"] == "EXEC" for event in mine)


# ---- the ring ----------------------------------------------------------------------------------


def forks() -> int:
    """Return how many processes there have been since the host booted: proc(5)."""
    (line,) = (row for row in Path("/proc/stat").read_text().splitlines() if "processes" in row)
    return int(line.split()[1])


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
        enough = forks() + (20_000 if storm == "forks" else 0)  # the ring holds half of them
        with stopped(daemon), attacking(*command, folder=folder) as attacker:
            time.sleep(2)
            wait_until(lambda: forks() >= enough)
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
    answers = [e["buf"] for e in mine if e["event"] == "WRITE"]
    assert answers == ["."] * 4, "and so is what else it does, if that is little"
    children = {e["child"] for e in mine if e["event"] == "TRACK_FORK"}
    ended = {e["pid"] for e in events if e.get("event") == "EXIT"}
    assert children <= ended


def test_other_users_find_room_however_many_trees_one_user_starts(
    qmond: StartQmond, build: Build
) -> None:
    """Each is a new one, whose first records would be within its share."""
    daemon = qmond(ring={"size": "1M"}, log={"rotate": {"size": "1G"}})
    with open_folder() as folder:
        sower = compiled("trees", folder, called="sower")
        command: list[str | Path] = [sower, "60", "4000", compiled("ends", folder)]
        enough = forks() + 3000  # each second one brings 4 KB
        with stopped(daemon), attacking(*command, folder=folder) as attacker:
            wait_until(lambda: forks() >= enough)
            assert attacker.poll() is None
            with waiting("qemu-aarch64-static", build("waits", "aarch64")) as guest:
                guest.do(b"fff")
    events = daemon.stop()
    assert events[-1]["totals"]["TRACK_ADOPT"]["lost"] > 100
    mine = [e for e in events if guest.pid in (e.get("pid"), e.get("parent"))]
    lives = [e["event"] for e in mine if e["event"] in ("TRACK_ADOPT", "TRACK_FORK", "EXIT")]
    assert lives == ["TRACK_ADOPT", *["TRACK_FORK"] * 3, "EXIT"]
    assert [e["buf"] for e in mine if e["event"] == "WRITE"] == ["."] * 4


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


def test_an_exec_from_another_thread_is_told_and_leaves_no_slot_behind(qmond: StartQmond) -> None:
    """More often than a tree has slots; the thread's ID is another when the exec is done."""
    daemon = qmond()
    with open_folder() as folder:
        attacked(compiled("threadexec", folder), "200", "/bin/true", folder=folder)
    told = [e for e in daemon.stop() if e.get("event") == "EXEC"]
    assert [e["filename"] for e in told if e["tid"] != e["pid"]] == ["/bin/true"] * 200
    assert not any("fault" in e for e in told)


def test_a_limit_holds_where_threads_of_several_cpus_spend_it(qmond: StartQmond) -> None:
    daemon = qmond(limits={"WRITE": "20000/s"}, log={"rotate": {"size": "1G"}})
    with open_folder() as folder:
        attacked(compiled("writers", folder), "2", folder=folder)
    times = [e["ts"] for e in daemon.stop() if e.get("event") == "WRITE"]
    assert 20_000 < len(times) < 20_100 * (1 + times[-1] - times[0])


@contextmanager
def probing(*events: str, limits: dict[str, int] | None = None) -> Iterator[Probes]:
    """Have the kernel side alone, which watches what is called `rooms-…` for some events."""
    mask = sum(1 << NUMBER[name] for name in events)
    settings = Settings(
        mask, capture=64, budget=0, prefixes=(b"rooms-",), excludes=(),
        limits={NUMBER[name]: rate for name, rate in (limits or {}).items()},
    )  # fmt: skip
    probes = Probes.load(Options(ring=1 << 22))
    try:
        probes.configure(settings)
        yield probes
    finally:
        probes.close()


def test_settings_that_change_within_a_call_leave_no_room_taken(tmp_path: Path) -> None:
    program = compiled("vectors", tmp_path, called="rooms-vectors")
    with probing("WRITE") as probes:
        wanted = probes._wanted
        assert wanted is not None
        with subprocess.Popen([program, "2"]) as attacker:
            while attacker.poll() is None:
                probes.configure(replace(wanted, mask=0))
                probes.configure(wanted)
        while probes.ring.drain(1 << 16):
            pass
        before = probes.counters()["WRITE"]
        for cpu in os.sched_getaffinity(0):
            subprocess.run(["taskset", "--cpu-list", str(cpu), program, "0"], check=True)
        after = probes.counters()["WRITE"]
    assert after.seen - before.seen == 100 * len(os.sched_getaffinity(0))
    assert after.lost == before.lost


def test_a_full_table_of_limits_lets_nobody_spend_for_another_tree(tmp_path: Path) -> None:
    """It is filled, as by a guest with so many children; two others then have no bucket."""
    greedy = compiled("writers", tmp_path, called="rooms-greedy")
    modest = compiled("vectors", tmp_path, called="rooms-modest")
    with probing("WRITE", limits={"WRITE": 1000}) as probes:
        for pid in range(BUCKETS - 1):
            probes._buckets.insert(pack("=II", NOBODY - pid, NUMBER["WRITE"]), bytes(16))
        with subprocess.Popen([greedy, "2"]):
            time.sleep(1)
            before = probes.counters()["WRITE"]
            with subprocess.Popen([modest, "0"]) as other:
                assert other.wait(PATIENCE) == 0
        records = probes.ring.drain(1 << 16)
        suppressed = probes.counters()["WRITE"].suppressed
        assert before.suppressed > 1000
        rows = [RECORD_FORMAT.unpack_from(record) for record in records]
        mine = [row for row in rows if row[1] == other.pid and row[3] == NUMBER["WRITE"]]
        assert len(mine) == 100
        assert probes.newly_suppressed()[OTHERS] == {"WRITE": suppressed}


def test_a_tree_has_an_eighth_of_the_statistics_rows(tmp_path: Path) -> None:
    program = compiled("forks", tmp_path, called="rooms-forks")
    with probing("MMAP_SUM") as probes:
        done = subprocess.run([program, "3"], capture_output=True, check=True)
        assert int(done.stdout) > ROWS // 8
        found = probes.collect(probes.next_interval())
    assert len(found) == ROWS // 8 + 1
    assert sum(row.mmaps for row in found.values()) >= int(done.stdout)


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


@pytest.mark.parametrize("length", [PATH_MAX - 1, PATH_MAX, 5000])
def test_a_path_is_told_whole_or_said_to_be_cut(length: int, qmond: StartQmond) -> None:
    """A longer one than PATH_MAX with its NUL is asked for in vain."""
    daemon = qmond()
    with open_folder() as folder:
        program = compiled("execfail", folder)
        attacked(program, "1", str(length), folder=folder)
    lines = [e for e in daemon.stop() if e.get("event") == "EXEC"]
    assert {len(e["filename"]) for e in lines} == {length if length < PATH_MAX else PATH_MAX - 1}
    assert {e.get("truncated") for e in lines} == {True if length >= PATH_MAX else None}
