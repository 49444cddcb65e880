"""Scenarios: shells, children, threads, and processes elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from harness import waiting
from stage import (
    ARM,
    ARM64,
    BUSYBOX,
    BUSYBOX_ARM,
    RISCV64,
    Row,
    Stage,
    children_of,
    compared,
    exits,
    found,
    numbers,
)

NOBODY = "127.0.0.1 9"
"""Where nobody listens: a connection is refused."""

ALL = [
    *("TRACK_OPENAT", "EXEC", "READ", "WRITE", "READLINKAT", "SOCKET", "CONNECT", "DUP2"),
    *("MPROTECT", "MADVICE", "WAIT4_EXITED", "TRACK_FORK"),
]
"""What a shell's pipeline cannot do without."""


# ---- shells ------------------------------------------------------------------------------------

SCRIPT = f"""\
seq 1 200 | sort -r | head -n 50 | wc -l
readlink /proc/self/cwd
cat /etc/hostname | (read name; echo $name >/dev/null)
/bin/true
nc -w 1 {NOBODY}
exit 3
"""


def pipeline(stage: Stage) -> Iterator[Row]:
    """A shell pipeline in Debian's busybox for arm64, started by the interpreter's name."""
    yield from compared(stage.straced([ARM64, str(BUSYBOX), "sh", "-c", SCRIPT], ARM64, 3), *ALL)


def pipeline_arm(stage: Stage) -> Iterator[Row]:
    """The same in Debian's busybox for armhf."""
    yield from compared(stage.straced([ARM, str(BUSYBOX_ARM), "sh", "-c", SCRIPT], ARM, 3), *ALL)


def pipeline_binfmt(stage: Stage) -> Iterator[Row]:
    """The same for arm64 through binfmt_misc, with an execve for each applet."""
    stage.register("aarch64")
    script = SCRIPT
    for applet in ("seq", "sort", "head", "wc", "readlink", "cat", "nc"):
        path = stage.folder / applet
        path.symlink_to(BUSYBOX)
        script = script.replace(f"{applet} ", f"{path} ")
    yield from compared(stage.straced([str(BUSYBOX), "sh", "-c", script], str(BUSYBOX), 3), *ALL)


def native_and_back(stage: Stage) -> Iterator[Row]:
    """One process that executes guests of three architectures and the host's shell in turn."""
    stage.register("arm")
    assert stage.daemon
    last = stage.scene("hold", 7, arch="riscv64")
    five = stage.script("four", f"echo four $$; exec {' '.join(last)}")
    three = stage.script("three", f"echo three $$; exec /bin/sh {five}")
    two = stage.script("two", f"echo two $$; exec {BUSYBOX_ARM} sh {three}")
    one = stage.script("one", f"echo one $$; exec /bin/sh {two}")
    with subprocess.Popen(
        [ARM64, str(BUSYBOX), "sh", one], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as guest:
        said = guest.stdout.read().decode().splitlines() if guest.stdout else []
    parts = [
        (str(BUSYBOX), "aarch64"),
        ("/bin/sh", None),
        (str(BUSYBOX_ARM), "arm"),
        ("/bin/sh", None),
        (last[1], "riscv64"),
    ]
    events = stage.events([guest.pid])
    writes = numbers(
        (e["buf"], e["guest"], e.get("arch"), e["pid"]) for e in events if e["event"] == "WRITE"
    )
    truth = [
        (f"{line}\n", *part, int(line.split()[-1])) for line, part in zip(said, parts, strict=True)
    ]
    became = numbers(e["filename"] for e in events if e["event"] == "EXEC")
    yield Row("processes", "the launcher", numbers([guest.pid]), found(events))
    yield Row("WRITE: guest and architecture", "commands and output", numbers(truth), writes)
    programs = ["/bin/sh", str(BUSYBOX_ARM), "/bin/sh", RISCV64]
    yield Row("EXEC", "the commands", numbers(programs), became)
    yield Row("EXIT", "waitpid", numbers([(guest.pid, 7, None)]), exits(events))


# ---- children and threads ----------------------------------------------------------------------


def fork_bomb(stage: Stage) -> Iterator[Row]:
    """5,000 children, 50 at a time, each of which lives for a millisecond."""
    assert stage.daemon
    with subprocess.Popen(stage.scene("bomb", 5000), stdout=subprocess.PIPE, text=True) as guest:
        out, _ = guest.communicate(timeout=120)
    told = [tuple(map(int, line.split())) for line in out.splitlines()]
    assert len(told) == 5000
    events = stage.events([guest.pid, *(pid for pid, _ in told)])
    pids = numbers([guest.pid], (pid for pid, _ in told))
    ends = numbers([(guest.pid, 0, None)], ((pid, code, None) for pid, code in told))
    reaped = numbers(e["reaped_child"] for e in events if e["event"] == "WAIT4_EXITED")
    yield Row("processes", "the guest's output", pids, found(events))
    yield Row("EXIT", "the guest's output", ends, exits(events))
    yield Row("WAIT4_EXITED", "the guest's output", numbers(pid for pid, _ in told), reaped)


def spawn(stage: Stage) -> Iterator[Row]:
    """vfork, posix_spawn and system in a guest: qemu-user turns them into forks."""
    yield from compared(stage.straced(stage.scene("spawn", "/bin/true"), ARM64))


def spawn_native(stage: Stage) -> Iterator[Row]:
    """The same in a native program that a guest executed: vfork shares the memory of the parent."""
    program = str(stage.build("scenes", "native"))
    run = stage.straced([ARM64, str(BUSYBOX), "env", program, "spawn", "/bin/true"], ARM64)
    assert run.truth.borrowers >= 4
    yield from compared(run)


def threads(stage: Stage) -> Iterator[Row]:
    """8 threads that write 50 times each: none of them counts as a child."""
    assert stage.daemon
    with subprocess.Popen(stage.scene("threads", 8, 50), stdout=subprocess.PIPE) as guest:
        out, _ = guest.communicate(timeout=60)
    events = stage.events([guest.pid])
    writes = numbers((e["tid"], e["buf"]) for e in events if e["event"] == "WRITE")
    truth = numbers((int(line), line.decode() + "\n") for line in out.splitlines())
    assert sorted(truth.values()) == [50] * 8
    yield Row("processes", "the launcher", numbers([guest.pid]), found(events))
    yield Row("WRITE by thread", "the guest's output", truth, writes)


def daemonising(stage: Stage) -> Iterator[Row]:
    """A double fork: the grandchild outlives its parent and grandparent."""
    run = stage.straced(stage.scene("daemon"), ARM64)
    yield from compared(run)
    (wrote,) = (at for at, e in enumerate(run.events) if e["event"] == "WRITE")
    last = run.events[wrote]["pid"]
    before = numbers(e["pid"] for e in run.events[:wrote] if e["event"] == "EXIT")
    others = numbers(run.truth.processes - {int(run.events[wrote]["buf"])})
    yield Row("EXIT before the WRITE of the grandchild", "the guest's output", others, before)
    assert last not in others


# ---- elsewhere ---------------------------------------------------------------------------------


def root_of(stage: Stage) -> Path:
    """Return a root folder with busybox, a guest and their interpreter, and nothing else."""
    root = stage.folder / "root"
    (root / "bin").mkdir(parents=True)
    waits = stage.build("waits", "aarch64")
    for source, name in ((BUSYBOX, "busybox"), (Path(ARM64), "qemu-a64"), (waits, "waits")):
        (root / "bin" / name).write_bytes(source.read_bytes())
        (root / "bin" / name).chmod(0o755)
    return root


FORKS = ["/bin/qemu-a64", "/bin/busybox", "sh", "-c", "(echo a; exit 4); (exit 5)"]


def chroot(stage: Stage) -> Iterator[Row]:
    """A guest in a chroot that forks."""
    yield from compared(stage.straced(["chroot", str(root_of(stage)), *FORKS], FORKS[0], 5))


def chroot_binfmt(stage: Stage) -> Iterator[Row]:
    """The same through binfmt_misc, with the interpreter outside of the chroot."""
    stage.register("aarch64")
    yield from compared(stage.straced(["chroot", str(root_of(stage)), *FORKS[1:]], FORKS[1], 5))


def namespaces(stage: Stage) -> Iterator[Row]:
    """The same in its own mount and pid namespace: events have the host's process IDs."""
    unshare = ["unshare", "--mount", "--pid", "--fork", "chroot", str(root_of(stage))]
    yield from compared(stage.straced([*unshare, *FORKS], FORKS[0], 5))
    with waiting(*unshare, FORKS[0], "/bin/waits") as outside:
        (inside,) = children_of(outside.pid)
        status = Path(f"/proc/{inside}/status").read_text().splitlines()
        (ids,) = (line.split()[1:] for line in status if line.startswith("NSpid:"))
        assert ids[1:] == ["1"]
        outside.do(b"ff")
    host = int(ids[0])
    events = stage.events([host])
    adopted = numbers((e["pid"], e["guest"]) for e in events if e["event"] == "TRACK_ADOPT")
    orders = numbers(e["pid"] for e in events if (e["event"], e.get("buf")) == ("READ", "f"))
    truth = numbers([(host, "/bin/waits")])
    yield Row("TRACK_ADOPT", "NSpid of /proc/PID/status", truth, adopted)
    yield Row("READ afterwards", "NSpid of /proc/PID/status", numbers([host, host]), orders)
