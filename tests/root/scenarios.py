"""Lives that are hard to follow, each held against what somebody else knows of it.

    python tests/root/scenarios.py --runs 5 > docs/scenarios.md

A difference is how many entries of the truth and of what was seen have no partner in the other.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Qmond, Waiting, builder, end_qmond, registrar, start_qmond, wait_until, waiting
from truth import CALLS, read_strace

BUSYBOX = Path(sys.executable).parent.parent / "guests/busybox-arm64"
Event = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One thing that is known: entries that are the same in truth and seen are no difference."""

    what: str
    source: str
    truth: Counter[Any]
    seen: Counter[Any]

    @property
    def difference(self) -> int:
        """How many entries are in the one alone."""
        return (self.truth - self.seen).total() + (self.seen - self.truth).total()


@dataclass
class Stage:
    """What a scenario plays on."""

    build: Callable[[str, str], Path]
    register: Callable[[str], None]
    folder: Path
    start: Callable[[], Qmond]
    daemons: list[Qmond] = field(default_factory=list)

    @property
    def daemon(self) -> Qmond:
        """The daemon; it begins when it is asked for first."""
        if not self.daemons:
            self.daemons.append(self.start())
        return self.daemons[0]

    def scene(self, *words: object, arch: str = "aarch64") -> list[str]:
        """Return the command for a guest of scenes.c, by the static interpreter."""
        program = self.build("scenes", arch)
        return [f"/usr/bin/qemu-{arch}-static", str(program), *map(str, words)]

    def events(self, pids: Iterable[int]) -> list[Event]:
        """Return the events of processes, when all of them have ended."""
        wanted = set(pids)

        def ended() -> list[Event]:
            found = [e for e in self.daemon.events() if e.get("pid", e.get("parent")) in wanted]
            return found if wanted <= {e["pid"] for e in found if e["event"] == "EXIT"} else []

        return wait_until(ended)


def numbers(*lists: Iterable[object]) -> Counter[Any]:
    """Return entries as a Counter."""
    return Counter(entry for entries in lists for entry in entries)


def exits(events: Iterable[Event]) -> Counter[Any]:
    """Return what EXIT says: process, code, signal."""
    return numbers((e["pid"], e["code"], e["signal"]) for e in events if e["event"] == "EXIT")


def found(events: Iterable[Event]) -> Counter[Any]:
    """Return each process that came under watch, as often as that is told."""
    came = {"TRACK_ADOPT": "pid", "TRACK_FORK": "child"}
    return numbers(e[came[e["event"]]] for e in events if e["event"] in came)


def by_strace(stage: Stage, command: list[str], first: str, status: int = 0) -> Iterator[Row]:
    """Run a command under strace and qmond at once, and compare what each saw."""
    daemon = stage.daemon
    trace = stage.folder / "strace"
    options = ["-f", "-s", "0", "--pidns-translation", "-o", str(trace), "-e", f"trace={CALLS}"]
    strace = ["strace", *options, *command]
    done = subprocess.run(strace, capture_output=True, timeout=60, check=False)
    assert done.returncode == status, done
    truth = read_strace(trace, first)
    events = stage.events(truth.processes)
    numbers_of = {name: number.value for name, number in signal.Signals.__members__.items()}
    ends = [
        (pid, code, numbers_of[f"SIG{name}"] if name else None)
        for pid, (code, name) in truth.ends.items()
    ]
    calls = Counter(e["event"] for e in events if e["event"] in truth.counts)
    yield Row("processes", "strace", numbers(truth.processes), found(events))
    yield Row("exits", "strace", numbers(ends), exits(events))
    yield Row("calls by event", "strace", truth.counts, calls)
    assert daemon.process.poll() is None


# ---- the scenarios -----------------------------------------------------------------------------

SCRIPT = "seq 1 200 | sort -r | head -n 50 | wc -l; cat /proc/self/stat | cut -c 1-3; exit 3"


def pipeline(stage: Stage) -> Iterator[Row]:
    """A shell pipeline of Debian's busybox for arm64, by the interpreter's name."""
    interpreter = "/usr/bin/qemu-aarch64-static"
    yield from by_strace(stage, [interpreter, str(BUSYBOX), "sh", "-c", SCRIPT], interpreter, 3)


def pipeline_binfmt(stage: Stage) -> Iterator[Row]:
    """The same by binfmt_misc, each applet executed anew."""
    stage.register("aarch64")
    for applet in ("seq", "sort", "head", "wc"):
        (stage.folder / applet).unlink(missing_ok=True)
        (stage.folder / applet).symlink_to(BUSYBOX)
    script = " | ".join(f"{stage.folder}/{words}" for words in ("seq 1 99", "sort -r", "wc -l"))
    yield from by_strace(stage, [str(BUSYBOX), "sh", "-c", script], str(BUSYBOX))


def fork_bomb(stage: Stage) -> Iterator[Row]:
    """5,000 children, 50 at once, that live for a millisecond."""
    assert stage.daemon
    with subprocess.Popen(stage.scene("bomb", 5000), stdout=subprocess.PIPE, text=True) as guest:
        out, _ = guest.communicate(timeout=120)
    told = [tuple(map(int, line.split())) for line in out.splitlines()]
    events = stage.events([guest.pid, *(pid for pid, _ in told)])
    pids = numbers([guest.pid], (pid for pid, _ in told))
    ends = numbers([(guest.pid, 0, None)], ((pid, code, None) for pid, code in told))
    reaped = numbers(e["reaped_child"] for e in events if e["event"] == "WAIT4_EXITED")
    yield Row("processes", "the guest's own account", pids, found(events))
    yield Row("exits", "the guest's own account", ends, exits(events))
    yield Row("reaped", "the guest's own account", numbers(pid for pid, _ in told), reaped)


def spawn(stage: Stage) -> Iterator[Row]:
    """vfork, posix_spawn and system in a guest, which qemu-user makes forks of."""
    command = stage.scene("spawn", "/bin/true")
    yield from by_strace(stage, command, command[0])


def spawn_native(stage: Stage) -> Iterator[Row]:
    """The same in a native program that a guest became: the child borrows its parent's memory."""
    command = ["/usr/bin/qemu-aarch64-static", str(BUSYBOX), "env"]
    program = str(stage.build("scenes", "native"))
    yield from by_strace(stage, [*command, program, "spawn", "/bin/true"], command[0])


def threads(stage: Stage) -> Iterator[Row]:
    """8 threads that each write 50 times: none of them is a child."""
    assert stage.daemon
    with subprocess.Popen(stage.scene("threads", 8, 50), stdout=subprocess.PIPE) as guest:
        out, _ = guest.communicate(timeout=60)
    events = stage.events([guest.pid])
    writes = numbers((e["tid"], e["buf"]) for e in events if e["event"] == "WRITE")
    truth = numbers((int(line), line.decode() + "\n") for line in out.splitlines())
    yield Row("processes", "the launcher", numbers([guest.pid]), found(events))
    yield Row("writes by thread", "the guest's own account", truth, writes)


def daemonising(stage: Stage) -> Iterator[Row]:
    """A double fork: the grandchild outlives all who made it."""
    command = stage.scene("daemon")
    yield from by_strace(stage, command, command[0])


def native_and_back(stage: Stage) -> Iterator[Row]:
    """One process: a guest, then a shell of the host, then a guest again by binfmt_misc."""
    stage.register("aarch64")
    assert stage.daemon
    shell = f"echo two; exec {BUSYBOX} sh -c 'echo three; exec /bin/echo four'"
    inner = f'echo one; exec /bin/sh -c "{shell}"'
    command = ["qemu-aarch64-static", str(BUSYBOX), "sh", "-c", inner]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as guest:
        guest.communicate(timeout=60)
    events = stage.events([guest.pid])
    writes = numbers((e["buf"], e["guest"], e.get("arch")) for e in events if e["event"] == "WRITE")
    busybox = str(BUSYBOX)
    truth = [
        ("one\n", busybox, "aarch64"),
        ("two\n", "/bin/sh", None),
        ("three\n", busybox, "aarch64"),
        ("four\n", "/bin/echo", None),
    ]
    yield Row("processes", "the launcher", numbers([guest.pid]), found(events))
    yield Row("what it was when it wrote", "the command", numbers(truth), writes)


def root_of(stage: Stage) -> Path:
    """Return a root folder with busybox and its interpreter, and nothing else."""
    root = stage.folder / "root"
    (root / "bin").mkdir(parents=True, exist_ok=True)
    for source, name in ((BUSYBOX, "busybox"), (Path("/usr/bin/qemu-aarch64-static"), "qemu-a64")):
        if not (root / "bin" / name).exists():
            (root / "bin" / name).write_bytes(source.read_bytes())
            (root / "bin" / name).chmod(0o755)
    return root


def chroot(stage: Stage) -> Iterator[Row]:
    """A guest in a chroot, where it forks."""
    words = ["/bin/qemu-a64", "/bin/busybox", "sh", "-c", "(echo a; exit 4); (exit 5)"]
    yield from by_strace(stage, ["chroot", str(root_of(stage)), *words], words[0], 5)


def namespaces(stage: Stage) -> Iterator[Row]:
    """The same in a mount and pid namespace of its own: IDs are the host's."""
    words = ["/bin/qemu-a64", "/bin/busybox", "sh", "-c", "(echo a; exit 4); (exit 5)"]
    unshare = ["unshare", "--mount", "--pid", "--fork", "chroot", str(root_of(stage))]
    yield from by_strace(stage, [*unshare, *words], words[0], 5)


def killed(stage: Stage) -> Iterator[Row]:
    """Guests that end by SIGKILL, by SIGSEGV and by SIGABRT."""
    assert stage.daemon
    ends, pids, generated = [], [], []
    for scene, number in (("crash", signal.SIGSEGV), ("abort", signal.SIGABRT)):
        with subprocess.Popen(stage.scene(scene), stderr=subprocess.DEVNULL) as guest:
            ends.append((guest.pid, None, -guest.wait(20)))
        generated.append((guest.pid, int(number)))
    command = ["qemu-aarch64-static", str(stage.build("waits", "aarch64"))]
    with waiting(*command) as idle:
        idle.kill()
    ends.append((idle.pid, None, 9))
    generated.append((idle.pid, 9))
    pids = [pid for pid, _, _ in ends]
    events = stage.events(pids)
    signals = {(e["pid"], e["sig"]) for e in events if e["event"] == "SIGNAL_GENERATE"}
    yield Row("processes", "the launcher", numbers(pids), found(events))
    yield Row("exits", "waitpid", numbers(ends), exits(events))
    yield Row("signals", "waitpid", numbers(generated), numbers(signals & set(generated)))


def reused_ids(stage: Stage) -> Iterator[Row]:
    """Two guests of different architectures that have the same process ID, one after the other."""
    assert stage.daemon
    ran: list[tuple[int, str]] = []
    arches = ("aarch64", "arm", "riscv64", "aarch64")
    with subprocess.Popen(stage.scene("exit", 0)) as first:
        pass
    for arch in arches:
        for _ in range(50):  # somebody else may have taken the ID
            time.sleep(0.02)  # start times are in ticks; no ID is used again so soon by itself
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(first.pid - 1))
            with subprocess.Popen(stage.scene("exit", len(ran), arch=arch)) as guest:
                pass
            if guest.pid == first.pid:
                break
        assert guest.pid == first.pid
        ran.append((len(ran), arch))
    wait_until(lambda: sum(e["event"] == "EXIT" for e in stage.events([first.pid])) >= 5)
    events = stage.events([first.pid])
    adopted = [e for e in events if e["event"] == "TRACK_ADOPT"][1:]
    ended = [e for e in events if e["event"] == "EXIT"][1:]
    seen = numbers((e["code"], e["arch"]) for e in ended)
    yield Row("exits with their architecture", "the launcher", numbers(ran), seen)
    starts = {(e["pid"], e["start"]) for e in adopted}
    yield Row("identities", "the launcher", numbers(range(len(ran))), numbers(range(len(starts))))
    mine = numbers(e["arch"] for e in adopted)
    yield Row("architectures", "the launcher", numbers(arches), mine)


def crowd(stage: Stage) -> Iterator[Row]:
    """200 guests of three architectures at once, half of them by binfmt_misc."""
    assert stage.daemon
    guests: list[subprocess.Popen[bytes]] = []
    for at in range(200):
        arch = ("aarch64", "arm", "riscv64")[at % 3]
        stage.register(arch)
        command = stage.scene("exit", at % 100, arch=arch)
        guests.append(subprocess.Popen(command[at % 2 :]))
    ends = [(guest.pid, guest.wait(60), None) for guest in guests]
    events = stage.events(guest.pid for guest in guests)
    launches = numbers(e["launch"] for e in events if e["event"] == "TRACK_ADOPT")
    yield Row("processes", "the launcher", numbers(g.pid for g in guests), found(events))
    yield Row("exits", "waitpid", numbers(ends), exits(events))
    yield Row("launches", "the commands", Counter(direct=100, binfmt=100), launches)


def already_running(stage: Stage) -> Iterator[Row]:
    """Guests that ran before the daemon: idle, with a child, and one whose first thread is gone."""
    interpreter, program = "/usr/bin/qemu-aarch64-static", stage.build("waits", "aarch64")
    with ExitStack() as stack:
        commands: list[list[str]] = [
            [interpreter, str(program)],
            ["/usr/bin/qemu-aarch64", str(program)],
            stage.scene("headless"),
            [interpreter, str(BUSYBOX), "sh", "-c", f"{interpreter} {program}; exit 6"],
        ]
        guests: list[Waiting] = [stack.enter_context(waiting(*words)) for words in commands]
        children = [int(pid) for guest in guests for pid in children_of(guest.pid)]
        assert stage.daemon
        for guest in guests:
            guest.do(b"f")
    pids = [guest.pid for guest in guests]
    events = stage.events([*pids, *children])
    adopted = numbers(
        (e["pid"], e["guest"])
        for e in events
        if e["event"] == "TRACK_ADOPT" and e["origin"] == "procfs"
    )
    guest_of = [str(program), str(program), str(stage.build("scenes", "aarch64")), str(BUSYBOX)]
    truth = numbers(zip(pids, guest_of, strict=True), ((pid, str(program)) for pid in children))
    yield Row("adopted, with their guest", "the launcher", truth, adopted)
    parents = numbers([*pids[:3], *children])  # who obeyed the order to fork
    forks = numbers(e["parent"] for e in events if e["event"] == "TRACK_FORK")
    yield Row("forks afterwards", "the orders", parents, forks)
    ends = [(pid, 0, None) for pid in (*pids[:3], *children)] + [(pids[3], 6, None)]
    yield Row("exits", "waitpid", numbers(ends), exits(events))


def children_of(pid: int) -> list[str]:
    """Return a process' children, as /proc has them."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]


def switches(stage: Stage) -> Iterator[Row]:
    """Context switches from each thread of a guest, between two moments when all of them sleep."""
    assert stage.daemon
    with waiting(*stage.scene("pulse", 4)) as guest:
        before, began = at_rest(guest.pid)
        guest.do(b"ppp")
        after, ended = at_rest(guest.pid)
    events = [e for e in stage.daemon.events() if e.get("event") == "SCHED_SWITCH"]
    seen = Counter(e["prev_pid"] for e in events if began < e["ts"] < ended)
    truth = Counter({tid: after[tid] - count for tid, count in before.items()})
    mine = Counter({tid: seen[tid] for tid in truth})
    stage.events([guest.pid])
    yield Row("switches by thread", "/proc/PID/task/TID/status", +truth, +mine)


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


SCENARIOS = (
    pipeline,
    pipeline_binfmt,
    fork_bomb,
    spawn,
    spawn_native,
    threads,
    daemonising,
    native_and_back,
    chroot,
    namespaces,
    killed,
    reused_ids,
    crowd,
    already_running,
    switches,
)


# ---- the table ---------------------------------------------------------------------------------


@contextlib.contextmanager
def staged(folder: Path, build: Callable[[str, str], Path]) -> Iterator[Stage]:
    """Give a stage; its daemon is stopped in order at the end, and its books are checked."""
    with registrar() as register:
        stage = Stage(build, register, folder, lambda: start_qmond(folder, {}))
        try:
            yield stage
        finally:
            for daemon in stage.daemons:
                end_qmond(daemon)


def main() -> int:
    """Run every scenario several times, print the table, and say whether all is 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each scenario")
    runs = parser.parse_args().runs
    print("# Scenarios\n")
    print(f"Made by `make scenarios`: real guests, {runs} runs of each, a daemon each. The sums of")
    print("all runs; a difference is what the one has and the other has not, entry by entry.\n")
    print("| scenario | what | truth by | truth | seen | difference |\n|---|---|---|---|---|---|")
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="qmond-scenarios-") as top:
        build = builder(Path(top))
        for scenario in SCENARIOS:
            rows: dict[str, list[Row]] = {}
            for run in range(runs):
                folder = Path(top) / f"{scenario.__name__}-{run}"
                folder.mkdir()
                with staged(folder, build) as stage:
                    for row in scenario(stage):
                        rows.setdefault(row.what, []).append(row)
            title = (scenario.__doc__ or "").rstrip(".")
            for what, found_rows in rows.items():
                truth = sum(row.truth.total() for row in found_rows)
                seen = sum(row.seen.total() for row in found_rows)
                difference = sum(row.difference for row in found_rows)
                wrong += difference
                by = found_rows[0].source
                print(f"| {title} | {what} | {by} | {truth} | {seen} | {difference} |", flush=True)
                title = ""
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ.setdefault("QMOND_LOG_LEVEL", "WARNING")
    sys.exit(main())
