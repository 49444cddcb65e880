"""Where a guest's relative path leads: what its lines say, against what procfs says of it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import Build, StartQmond
from harness import Qmond, Waiting, waiting

Event = dict[str, Any]
ARM64 = "/usr/bin/qemu-aarch64-static"
BUSYBOX = Path(sys.executable).parent.parent / "guests/busybox-arm64"
IN = 'cd "$0" && exec "$@"'
"""A script: a directory, and the command to execute there."""


def place(build: Build, folder: Path) -> Path:
    """Put the guest that waits into a folder, as `sensor`."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(build("waits", "aarch64"), folder / "sensor"))


@contextmanager
def started(folder: Path, *command: str) -> Iterator[tuple[Waiting, str]]:
    """Start a guest in a folder; gives it, and its directory as procfs has it."""
    with waiting("sh", "-c", IN, folder, *command) as guest:
        yield guest, os.readlink(f"/proc/{guest.pid}/cwd")


def adopted(daemon: Qmond, pid: int) -> Event:
    """Return a process' TRACK_ADOPT, after its end; other lines must have the same path."""
    found, *others = [e for e in daemon.of(pid) if e.get("event") != "SCHED_SWITCH"]
    assert found["event"] == "TRACK_ADOPT"
    keys = ("guest", "guest_path", "guest_path_b64")
    for event in others:
        assert [event.get(key) for key in keys] == [found.get(key) for key in keys]
    return found


def test_a_relative_start(
    qmond: StartQmond, build: Build, binfmt: Callable[[str], None], tmp_path: Path
) -> None:
    """In a deep directory, which the starter reached through a symbolic link."""
    daemon = qmond()
    binfmt("aarch64")
    folder = place(build, tmp_path.joinpath("linked", *"abcdefghijklmnop", "deep")).parent
    (tmp_path / "link").symlink_to("linked/a")
    linked = tmp_path / "link" / folder.relative_to(tmp_path / "linked/a")
    for command, below in (
        ([ARM64, "./sensor"], "sensor"),
        ([ARM64, "sensor"], "sensor"),
        ([ARM64, "../deep/./sensor"], "../deep/./sensor"),
        (["/usr/bin/qemu-aarch64", "./sensor"], "sensor"),
        (["./sensor"], "sensor"),
        (["../deep/./sensor"], "../deep/./sensor"),
    ):
        with started(linked, *command) as (guest, cwd):
            guest.do(b"f")
        assert cwd == str(folder)
        found = adopted(daemon, guest.pid)
        paths = (command[-1], f"{cwd}/{below}", cwd)
        assert (found["guest"], found["guest_path"], found["cwd"]) == paths
        child = next(e["child"] for e in daemon.events() if e.get("parent") == guest.pid)
        assert daemon.of(child)[-1]["guest_path"] == f"{cwd}/{below}", "as its parent"
    tail = ("tail", "--no-follow", "--last", "1000", "--guest", f"{tmp_path}/linked/*")
    lines = [json.loads(line) for line in daemon.ctl(*tail).stdout.splitlines()]
    assert {line.get("pid") for line in lines} >= {guest.pid, child}


def test_in_the_root_and_without_need(qmond: StartQmond, build: Build) -> None:
    daemon = qmond()
    program = str(build("waits", "aarch64"))
    for given, path in ((f".{program}", program), (program, None)):
        with started(Path("/"), ARM64, given) as (guest, cwd):
            pass
        found = adopted(daemon, guest.pid)
        assert (found.get("guest_path"), found["cwd"], cwd) == (path, "/", "/")


def test_in_a_chroot(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    """The path is the one that the guest itself has."""
    daemon = qmond()
    root = tmp_path / "root"
    place(build, root / "opt/x")
    shutil.copy(ARM64, root / "opt")
    enter = f"import os; os.chroot({str(root)!r}); os.chdir('/opt/x'); "
    enter += "os.execv('/opt/qemu-aarch64-static', ['q', './sensor'])"
    with waiting(sys.executable, "-c", enter) as guest:
        assert os.readlink(f"/proc/{guest.pid}/root") == str(root)
        assert os.readlink(f"/proc/{guest.pid}/cwd") == f"{root}/opt/x"
    found = adopted(daemon, guest.pid)
    assert (found["guest_path"], found["cwd"]) == ("/opt/x/sensor", "/opt/x")


def test_outside_of_its_root(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    """A directory that the guest can use, but that has no path for it."""
    daemon = qmond()
    root = tmp_path / "root"
    root.mkdir()
    place(build, tmp_path / "out")
    shutil.copy(ARM64, root)
    enter = f"import os; os.chdir({str(tmp_path / 'out')!r}); os.chroot({str(root)!r}); "
    enter += "os.execv('/qemu-aarch64-static', ['q', './sensor'])"
    with waiting(sys.executable, "-c", enter) as guest:
        pass
    found = adopted(daemon, guest.pid)
    assert (found["guest"], {"guest_path", "cwd"} & set(found)) == ("./sensor", set())


def test_in_another_mount_namespace(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    """Below two bind mounts that nobody else sees, one upon the other."""
    daemon = qmond()
    place(build, tmp_path / "from/sub/deep")
    (tmp_path / "to/there").mkdir(parents=True)
    mount = 'mount --bind "$1/from" "$1/to/there" && mount --bind "$1/from/sub" "$1/to/there/sub"'
    script = f'{mount} && cd "$1/to/there/sub/deep" && exec {ARM64} ./sensor'
    with waiting("unshare", "-m", "sh", "-c", script, "sh", str(tmp_path)) as guest:
        cwd = os.readlink(f"/proc/{guest.pid}/cwd")
    assert cwd == f"{tmp_path}/to/there/sub/deep"
    assert not Path(cwd).exists()
    found = adopted(daemon, guest.pid)
    assert (found["guest_path"], found["cwd"]) == (f"{cwd}/sensor", cwd)


def test_on_a_mount_that_is_gone(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    daemon = qmond()
    (tmp_path / "on").mkdir()
    mount = 'mount -t tmpfs none "$1/on" && mkdir "$1/on/x" && cp "$2" "$1/on/x/sensor"'
    script = f'{mount} && cd "$1/on/x" && umount -l "$1/on" && exec {ARM64} ./sensor'
    program = build("waits", "aarch64")
    with waiting("unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), program) as guest:
        pass
    found = adopted(daemon, guest.pid)
    assert (found["guest"], {"guest_path", "cwd"} & set(found)) == ("./sensor", set())


def test_in_a_directory_that_is_gone(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    daemon = qmond()
    place(build, tmp_path)
    script = f'mkdir "$1/gone" && cd "$1/gone" && rmdir "$1/gone" && exec {ARM64} ../sensor'
    with waiting("sh", "-c", script, "sh", str(tmp_path)) as guest:
        assert os.readlink(f"/proc/{guest.pid}/cwd") == f"{tmp_path}/gone (deleted)"
    found = adopted(daemon, guest.pid)
    assert (found["guest"], {"guest_path", "cwd"} & set(found)) == ("../sensor", set())


def test_a_guest_that_executes_a_relative_path(
    qmond: StartQmond, build: Build, binfmt: Callable[[str], None], tmp_path: Path
) -> None:
    """From where it went after its own start, and then a native program of the host."""
    daemon = qmond()
    binfmt("aarch64")
    place(build, tmp_path / "one/two")
    shutil.copy("/bin/true", tmp_path / "one/native")
    shutil.copy(BUSYBOX, tmp_path / "busybox")
    script = "(cd one; ./native; true); cd one/two && exec ./sensor"
    with started(tmp_path, ARM64, "./busybox", "sh", "-c", script) as (guest, cwd):
        assert cwd == f"{tmp_path}/one/two"
    events = [e for e in daemon.of(guest.pid) if "guest" in e]
    paths = [f"{tmp_path}/busybox", f"{tmp_path}/one/two/sensor"]
    assert list(dict.fromkeys(e["guest_path"] for e in events)) == paths
    native = [e for e in daemon.events() if e.get("guest") == "./native"]
    assert {e["guest_path"] for e in native} == {f"{tmp_path}/one/native"}


def test_how_far_it_looks_and_at_which_names(
    qmond: StartQmond, build: Build, tmp_path: Path
) -> None:
    daemon = qmond()
    for names, is_known in (
        (["d"] * 30, True),
        (["d"] * 60, False),
        (["n" * 250] * 3, True),
        (["n" * 250] * 5, False),
    ):
        folder = tmp_path.joinpath(*names)
        place(build, folder)
        with started(folder, ARM64, "./sensor") as (guest, cwd):
            assert cwd == str(folder)
        found = adopted(daemon, guest.pid)
        paths = (f"{cwd}/sensor", cwd) if is_known else (None, None)
        assert (found.get("guest_path"), found.get("cwd")) == paths
    no_utf8(daemon, build, tmp_path)


def no_utf8(daemon: Qmond, build: Build, tmp_path: Path) -> None:
    """Start a guest in a folder whose name is no UTF-8."""
    folder = os.fsencode(tmp_path) + b"/\xff\nx"
    place(build, Path(os.fsdecode(folder)))
    with started(Path(os.fsdecode(folder)), ARM64, "./sensor") as (guest, cwd):
        assert os.fsencode(cwd) == folder
    found = adopted(daemon, guest.pid)
    assert base64.b64decode(found["guest_path_b64"]) == folder + b"/sensor"
    assert base64.b64decode(found["cwd_b64"]) == folder
    assert found["cwd"] == f"{tmp_path}/\ufffd\nx"


def test_one_that_ran_before_the_daemon(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    """Its directory may have changed since it executed its program."""
    place(build, tmp_path)
    with started(tmp_path, ARM64, "./sensor") as (guest, _):
        daemon = qmond()
        guest.do(b"f")
    found = adopted(daemon, guest.pid)
    assert (found["origin"], found["guest"]) == ("procfs", "./sensor")
    assert not {"guest_path", "cwd"} & set(found)
