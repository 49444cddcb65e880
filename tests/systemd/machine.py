"""A booted systemd in a throw-away overlay of a root, and the package to install in it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_BUILD = pytest.StashKey[Thread]()
_SAID = pytest.StashKey[bytearray]()
PATIENCE = 60
"""Seconds; what takes a moment here may take many on a busy machine."""


@dataclass
class Command:
    """A command that runs in a machine meanwhile; its input is open until `end`.

    `process` is nsenter, which waits for it; `pid` is what the command itself has on the host.
    """

    process: subprocess.Popen[str]
    pid: int
    output: Path

    @property
    def runs(self) -> bool:
        """Whether it still does."""
        return self.process.poll() is None

    def said(self) -> list[str]:
        """Return the lines of its output, so far."""
        return self.output.read_text().split("\n")[:-1]

    def end(self) -> int:
        """Close its input, and wait for its end; returns the exit status."""
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode


@dataclass
class Machine:
    """A container that systemd has booted; what is done in it is done there alone."""

    leader: int
    root: Path

    def run(self, command: str, *, check: bool = True, timeout: float = PATIENCE) -> str:
        """Run a shell's command line in there; returns what it says, on both channels."""
        done = subprocess.run(
            [*self.enter, "sh", "-c", command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.returncode}: {done.stdout}"
        return done.stdout

    @contextmanager
    def started(self, command: str) -> Iterator[Command]:
        """Run a shell's command line in there meanwhile, as one process; it ends with this."""
        entered = [*self.enter, "sh", "-c", f"exec {command}"]
        with (
            tempfile.NamedTemporaryFile() as output,
            subprocess.Popen(entered, stdin=subprocess.PIPE, stdout=output, text=True) as process,
        ):
            try:
                yield Command(process, first_child(process), Path(output.name))
            finally:
                kill_children(process)

    @property
    def enter(self) -> list[str]:
        """The command that enters it."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return [
            "nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C",
            "env", "-i", path, "LANG=C.UTF-8",
        ]  # fmt: skip

    def show(self, *names: str) -> list[str]:
        """Return properties of the service."""
        said = self.run(f"systemctl show qmond.service {' '.join(f'-p {name}' for name in names)}")
        found = dict(line.partition("=")[::2] for line in said.splitlines())
        return [found[name] for name in names]

    def journal(self) -> str:
        """Return what the service and systemd said of it."""
        return self.run("journalctl -b -u qmond --no-pager -o cat")

    def until(self, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Wait for a condition."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.journal()[-3000:]
            time.sleep(0.1)


def need_root() -> None:
    """Skip where nobody is root; where CI runs, it fails then."""
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("needs root: run `sudo script/test`")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to build the package: it is there then when the first test needs it."""
    needed = any("package" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and os.geteuid() == 0 and not session.config.option.collectonly:
        command = ["nice", str(ROOT / "script/deb")]
        build = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        session.config.stash[_BUILD] = Thread(target=_read, args=(build, said := bytearray()))
        session.config.stash[_SAID] = said
        session.config.stash[_BUILD].start()


def _read(build: subprocess.Popen[bytes], said: bytearray) -> None:
    """Read what a build prints, to its end."""
    said += build.communicate()[0]


@pytest.fixture(scope="session")
def package(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package, which is moved out of the tree; those built with it are beside it."""
    need_root()
    return take_packages(pytestconfig, tmp_path_factory.mktemp("deb"))


def take_packages(config: pytest.Config, folder: Path) -> Path:
    """Move the packages into a folder, once they are built; returns qmond's own."""
    config.stash[_BUILD].join()
    del config.stash[_BUILD]
    said = config.stash[_SAID].decode().splitlines()
    made = [ROOT / line for line in said if line.endswith(".deb")]
    assert len(made) == 3, said
    for path in made:
        shutil.move(path, folder / path.name)
    if not any(made[0].parent.iterdir()):
        made[0].parent.rmdir()
    return folder / made[0].name


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove packages that no test has taken."""
    if _BUILD in session.config.stash:
        with tempfile.TemporaryDirectory() as folder:
            take_packages(session.config, Path(folder))


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """Boot a systemd over this machine's own root, and end it."""
    with running(Path("/")) as found:
        yield found


@pytest.fixture(scope="module")
def fresh_machine() -> Iterator[Machine]:
    """Boot a systemd over Debian 12 as debootstrap makes it, and end it."""
    with running(Path(sys.prefix) / "debian") as found:
        yield found


@contextmanager
def running(lower: Path) -> Iterator[Machine]:
    """Boot a systemd over some root, which stays as it is, and end it."""
    need_root()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qmond-systemd-")))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", folder], check=True)
        stack.callback(unmount, folder)
        upper, work, merged = (folder / name for name in ("upper", "work", "merged"))
        for path in (upper, work, merged):
            path.mkdir()
        layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", merged], check=True)
        stack.callback(unmount, merged)
        furnish(merged)
        command = [
            "systemd-nspawn", f"--directory={merged}", "--boot", "--register=no", "--keep-unit",
            "--quiet", "--capability=all", "--link-journal=no", "--console=pipe",
            "--system-call-filter=bpf perf_event_open kcmp", "--bind=/proc:/run/host/proc",
            "--bind=/sys/kernel/tracing",
        ]  # fmt: skip
        said = (folder / "console").open("wb")
        stack.callback(said.close)
        nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        stack.callback(end, nspawn)
        yield booted(nspawn, merged, folder / "console")


def unmount(path: Path) -> None:
    """Take a file system away, as soon as nobody uses it."""
    subprocess.run(["umount", "--lazy", path], check=True)


def furnish(root: Path) -> None:
    """Make the overlay a machine of its own: nothing of this one's starts there."""
    for name in ("etc/machine-id", "etc/fstab"):
        (root / name).unlink(missing_ok=True)
        (root / name).touch()
    (root / "usr/sbin/policy-rc.d").unlink(missing_ok=True)  # an image's, which forbids restarts
    for name in ("etc/systemd/system/multi-user.target.wants", "var/log/journal", "var/log/qmond"):
        shutil.rmtree(root / name, ignore_errors=True)
    subprocess.run(
        ["systemctl", "--root", root, "-q", "mask", "systemd-networkd-wait-online.service",
         "systemd-resolved.service", "systemd-udevd.service", "apt-daily.timer"],
        check=True,
    )  # fmt: skip


def booted(nspawn: subprocess.Popen[bytes], root: Path, console: Path) -> Machine:
    """Wait until the machine is up."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and nspawn.poll() is None:
        if found := children_of(nspawn):
            machine = Machine(found[0], root)
            state = machine.run("systemctl is-system-running 2>&1 || :", check=False)
            if state.strip() in {"running", "degraded"}:
                return machine
        time.sleep(0.2)
    raise AssertionError(console.read_text(errors="replace")[-3000:])


def end(nspawn: subprocess.Popen[bytes]) -> None:
    """End the machine: at once, there is nothing in it to be kept."""
    kill_children(nspawn)


def children_of(process: subprocess.Popen[Any]) -> list[int]:
    """Return the processes that a process of ours has begun; it may have ended."""
    with suppress(FileNotFoundError):
        path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]
    return []


def first_child(process: subprocess.Popen[Any]) -> int:
    """Return the first process that a process begins."""
    deadline = time.monotonic() + PATIENCE
    while not (found := children_of(process)):
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "it begins none"
    return found[0]


def kill_children(process: subprocess.Popen[Any]) -> None:
    """End what a process has begun, or is about to; then itself, if that does not follow."""
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        for pid in children_of(process):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    process.kill()
    process.wait(PATIENCE)
