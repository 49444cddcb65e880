"""Scenarios: how lives end, who has which ID, who was there before, who had the processor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from harness import PATIENCE, Waiting, wait_until, waiting
from stage import (
    ARM64,
    BUSYBOX,
    Event,
    Row,
    Stage,
    children_of,
    exits,
    found,
    numbers,
    signals,
    state_of,
)

LAST_ID = Path("/proc/sys/kernel/ns_last_pid")

# ---- ends and identities -----------------------------------------------------------------------


def killed(stage: Stage) -> Iterator[Row]:
    """Guests ended by SIGKILL, SIGSEGV and SIGABRT."""
    assert stage.daemon
    ends = []
    for scene in ("crash", "abort"):
        command = ["prlimit", "--core=0", *stage.scene(scene)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as guest:
            ends.append((guest.pid, None, -guest.wait(PATIENCE)))
    with waiting(ARM64, stage.build("waits", "aarch64")) as idle:
        idle.kill()
    ends.append((idle.pid, None, 9))
    events = stage.events(pid for pid, _, _ in ends)
    kill = numbers([(idle.pid, "SIGKILL")])
    ones = numbers((pid, signal.Signals(number).name) for pid, _, number in ends)
    yield Row("processes", "the launcher", numbers(pid for pid, _, _ in ends), found(events))
    yield Row("EXIT", "waitpid", numbers(ends), exits(events))
    kinds = numbers(signals(events).keys())
    yield Row("SIGNAL_GENERATE, one per signal", "waitpid", ones, kinds)
    mine = [e for e in events if e.get("pid") == idle.pid]
    yield Row("SIGNAL_GENERATE, SIGKILL", "the launcher", kill, signals(mine))
    for scene, number in (("crash", signal.SIGSEGV), ("abort", signal.SIGABRT)):
        run = stage.straced(command[:2] + stage.scene(scene), ARM64, -number)
        yield Row(f"SIGNAL_GENERATE, {scene}", "strace", run.truth.signals, signals(run.events))


def reused_ids(stage: Stage) -> Iterator[Row]:
    """Guests of different architectures that use the same process ID one after the other."""
    assert stage.daemon
    pid = far_id()
    lives = {}
    for code, arch in enumerate(("aarch64", "arm", "riscv64", "aarch64")):
        command = stage.scene("hold", code, arch=arch)
        with reusing(pid, command) as guest:
            start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        lives[int(start)] = (command[1], arch, guest.returncode)
    with holding(stage.scene("hold", 0)) as last:
        pass
    stage.events([last.pid])  # its end comes after all that is counted
    seen = []
    for start_seen, events in lives_of(pid, stage.daemon.events()).items():
        codes = [e["code"] for e in events if e["event"] == "EXIT"]
        who = {(e["guest"], e["arch"]) for e in events}
        if start_seen in lives:  # or somebody else had the ID in between
            seen += [(start_seen, *one, code) for one in who for code in codes]
    truth = numbers((start, *life) for start, life in lives.items())
    yield Row("start, guest, arch, code", "/proc/PID/stat, waitpid", truth, numbers(seen))


def lives_of(pid: int, events: list[Event]) -> dict[int, list[Event]]:
    """Return the events of each process that began by exec and had this ID, by start in ticks."""
    lives: dict[int, list[Event]] = {}
    life: list[Event] = []
    for event in events:
        if event.get("child") == pid:
            life = []
        if event.get("pid") == pid:
            if event["event"] == "TRACK_ADOPT":
                life = lives[round(event["start"] * os.sysconf("SC_CLK_TCK"))] = []
            life.append(event)
    return lives


def far_id() -> int:
    """Return a process ID that nobody had lately, nor will have soon."""
    limit = int(Path("/proc/sys/kernel/pid_max").read_text())
    return 1000 + (int(LAST_ID.read_text()) + limit // 2) % (limit - 1000)


@contextlib.contextmanager
def holding(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a guest that holds; it has begun to, and ends at the end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None
        assert int(guest.stdout.readline()) == guest.pid
        yield guest
        guest.stdin.close()


@contextlib.contextmanager
def reusing(pid: int, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a guest that holds, with this process ID: again where somebody else took it."""
    for _ in range(50):
        time.sleep(0.02)  # a start time is in ticks; no ID comes back so soon by itself
        last = LAST_ID.read_text()
        LAST_ID.write_text(str(pid - 1))
        with holding(command) as guest:
            LAST_ID.write_text(last)  # or the IDs that others had lately come again
            if guest.pid == pid:
                yield guest
                break
    else:
        raise AssertionError(f"process ID {pid} is never free")


def crowd(stage: Stage) -> Iterator[Row]:
    """200 guests of three architectures at a time, half of them through binfmt_misc."""
    assert stage.daemon
    guests: list[subprocess.Popen[bytes]] = []
    commands = []
    with ExitStack() as stack:
        for at in range(200):
            arch = ("aarch64", "arm", "riscv64")[at % 3]
            stage.register(arch)
            commands.append(stage.scene("hold", at % 100, arch=arch)[at % 2 :])
            guests.append(stack.enter_context(holding(commands[-1])))
    launched = [
        (guest.pid, "binfmt" if at % 2 else "direct", ("aarch64", "arm", "riscv64")[at % 3])
        for at, guest in enumerate(guests)
    ]
    events = stage.events(guest.pid for guest in guests)
    adopted = numbers(
        (e["pid"], e["launch"], e["arch"]) for e in events if e["event"] == "TRACK_ADOPT"
    )
    ends = numbers((guest.pid, guest.returncode, None) for guest in guests)
    assert {code for _, code, _ in ends} == set(range(100))
    yield Row("processes", "the launcher", numbers(g.pid for g in guests), found(events))
    yield Row("TRACK_ADOPT: launch, arch", "the launcher", numbers(launched), adopted)
    yield Row("EXIT", "waitpid", ends, exits(events))


# ---- before the daemon, and between moments ----------------------------------------------------


def already_running(stage: Stage) -> Iterator[Row]:
    """Guests that run before the daemon: with threads, with a child, with an ended main thread."""
    waits, scenes = str(stage.build("waits", "aarch64")), str(stage.build("scenes", "aarch64"))
    stage.register("aarch64")
    with ExitStack() as stack:
        commands = {
            "direct": [ARM64, waits],
            "dynamic": ["/usr/bin/qemu-aarch64", waits],
            "binfmt": [waits],
            "threads": stage.scene("pulse", 4),
            "headless": stage.scene("headless"),
            "parent": [ARM64, str(BUSYBOX), "sh", "-c", f"{ARM64} {waits}; exit 6"],
        }
        guests: dict[str, Waiting] = {
            name: stack.enter_context(waiting(*words)) for name, words in commands.items()
        }
        pids = {name: guest.pid for name, guest in guests.items()}
        wait_until(lambda: state_of(pids["headless"]) == "Z")
        (child,) = map(int, children_of(pids["parent"]))
        assert stage.daemon
        for guest in guests.values():
            guest.do(b"fff")
    obeyed = [*(pid for name, pid in pids.items() if name != "parent"), child]
    events = stage.events([pids["parent"], *obeyed])
    adopted = numbers(
        (e["pid"], e["guest"], e["origin"]) for e in events if e["event"] == "TRACK_ADOPT"
    )
    guest_of = {pids["threads"]: scenes, pids["headless"]: scenes, pids["parent"]: str(BUSYBOX)}
    truth = numbers((pid, guest_of.get(pid, waits), "procfs") for pid in [*pids.values(), child])
    yield Row("TRACK_ADOPT: guest, origin", "the launcher", truth, adopted)
    did = numbers(
        (e["pid"], e["event"], e["fd"], e["buf"]) for e in events if e["event"] in {"READ", "WRITE"}
    )
    orders = [(pid, *what) for pid in obeyed * 3 for what in (("READ", 0, "f"), ("WRITE", 1, "."))]
    yield Row("READ and WRITE afterwards", "the input of the guests", numbers(orders), did)
    forks = numbers(e["parent"] for e in events if e["event"] == "TRACK_FORK")
    yield Row("TRACK_FORK afterwards", "the input of the guests", numbers(obeyed * 3), forks)
    ends = [(pid, 0, None) for pid in obeyed] + [(pids["parent"], 6, None)]
    yield Row("EXIT", "waitpid", numbers(ends), exits(events))


def switches(stage: Stage) -> Iterator[Row]:
    """Context switches away from each thread of a guest, between two moments when all sleep."""
    assert stage.daemon
    with waiting(*stage.scene("pulse", 4)) as guest:
        before, began = at_rest(guest.pid)
        guest.do(b"ppp")
        after, ended = at_rest(guest.pid)
    stage.events([guest.pid])  # its end comes after all that is counted
    events = [e for e in stage.daemon.events() if e.get("event") == "SCHED_SWITCH"]
    seen = Counter(e["prev_pid"] for e in events if began < e["ts"] < ended)
    truth = Counter({tid: after[tid] - count for tid, count in before.items()})
    mine = Counter({tid: seen[tid] for tid in truth})
    yield Row("SCHED_SWITCH by thread", "/proc/PID/task/TID/status", +truth, +mine)


def at_rest(pid: int) -> tuple[dict[int, int], float]:
    """Return each thread's switches so far when none has run for a while, and that moment."""
    last: dict[int, int] = {}
    while True:
        now = {}
        for task in Path(f"/proc/{pid}/task").iterdir():
            lines = (task / "status").read_text().splitlines()
            now[int(task.name)] = sum(int(line.split()[1]) for line in lines if "ctxt" in line)
        if now == last:
            return now, time.monotonic()
        last = now
        time.sleep(0.3)
