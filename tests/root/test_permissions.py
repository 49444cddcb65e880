"""Who may connect, ask and read, before and after groups change: a real daemon, real credentials.

The groups' numbers are played: the daemon looks them up in a file of the test's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Build, StartQmond
from harness import PATIENCE, Qmond, wait_until
from test_service import rewrite

NOBODY = 65534
ASK, SEE, ELSE = 60, 29, 50
"""Numbers of groups: who may ask, who may see content, and another one."""
LOOK_UP = """
import grp, json, pathlib, types
def getgrnam(name):
    groups = json.loads(pathlib.Path({file!r}).read_text())
    return types.SimpleNamespace(gr_gid=groups[name])
grp.getgrnam = getgrnam
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that everybody may look into."""
    with tempfile.TemporaryDirectory(prefix="qmond-permissions-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


class Groups:
    """The groups that the daemon finds."""

    def __init__(self, file: Path) -> None:
        self.patch = LOOK_UP.format(file=str(file))
        self._file = file

    def set(self, **numbers: int) -> None:
        self._file.write_text(json.dumps(numbers))


class Stranger:
    """A client of the user nobody."""

    def __init__(self, path: Path, *groups: int) -> None:
        before = os.getgroups()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        os.setgroups(groups)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(before)
        self._stream = self._socket.makefile("rb")

    def get(self) -> dict[str, Any]:
        """Return the next message; nothing at the end."""
        line: dict[str, Any] = json.loads(self._stream.readline() or b"{}")
        return line

    def ask(self, op: str, **args: Any) -> dict[str, Any]:
        """Ask, and return the answer."""
        self._socket.sendall(json.dumps({"op": op, "args": args}).encode() + b"\n")
        return self.get()

    def close(self) -> None:
        """Hang up."""
        self._stream.close()
        self._socket.close()


@contextlib.contextmanager
def strangers(path: Path, *groups: tuple[int, ...]) -> Iterator[list[Stranger]]:
    """Give connected strangers, each in some groups, that have been greeted."""
    found = [Stranger(path, *some) for some in groups]
    try:
        for one in found:
            assert "qmond" in one.get()
        yield found
    finally:
        for one in found:
            one.close()


def door(path: Path) -> tuple[int, int]:
    """Return a socket's mode and group."""
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_gid


def started(
    qmond: StartQmond, folder: Path, groups: Groups, stored: Mapping[str, int] | None = None
) -> Qmond:
    """Start a daemon whose groups are `asking` and `seeing`."""
    names = {"path": str(folder / "qmond.sock"), "group": "asking", "payload_group": "seeing"}
    return qmond(patch=groups.patch, socket=names, stored=dict(stored or {}))


def said(daemon: Qmond, tmp_path: Path) -> str:
    assert daemon.process.poll() is None
    return (tmp_path / "stderr").read_text()


def run_guest(build: Build) -> None:
    subprocess.run(["qemu-aarch64-static", build("count", "aarch64"), "3"], check=True)


def test_a_group_that_vanishes_or_changes_is_heeded_at_once(
    qmond: StartQmond, open_folder: Path, tmp_path: Path, build: Build
) -> None:
    groups = Groups(tmp_path / "groups")
    groups.set(asking=ASK, seeing=SEE, other=ELSE)
    daemon = started(qmond, open_folder, groups)
    path = daemon.socket
    assert door(path) == (0o660, ASK)
    with strangers(path, (ASK,), (ASK, SEE), (ASK, SEE)) as (viewer, plain, filtered):
        assert viewer.ask("tail", events=["WRITE"]) == {"ok": {}}
        assert plain.ask("tail", events=["WRITE"]) == {"ok": {}}
        assert filtered.ask("tail", events=["WRITE"], where="fd >= 0") == {"ok": {}}
        run_guest(build)
        assert "buf" not in viewer.get()
        assert "buf" in plain.get()
        assert "buf" in filtered.get()

        groups.set(asking=ASK, other=ELSE)  # who may see content is nobody's group now
        assert daemon.ctl("reload").returncode == 0
        while "end" not in (last := filtered.get()):
            assert "buf" in last
        assert "what you may see has changed" in last["end"]["reason"]
        run_guest(build)
        for _ in range(2):  # what was left of the first three
            plain.get()
        assert "buf" not in plain.get()

        groups.set(other=ELSE, seeing=SEE)
        assert daemon.ctl("reload").returncode == 0
        assert door(path)[0] == 0o600
        for one in (viewer, plain, filtered):
            while "error" not in (last := one.get()):
                assert last["event"] == "WRITE"
            assert last["error"]["class"] == "Forbidden"
            assert one.get() == {}
    assert "there is no group asking: only root is served" in said(daemon, tmp_path)
    wait_until(lambda: said(daemon, tmp_path).count(": Forbidden: who may ask has changed") == 3)
    with pytest.raises(PermissionError):
        Stranger(path, ASK, SEE)

    groups.set(asking=ELSE, seeing=SEE)  # it is back, with another number
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: door(path) == (0o660, ELSE))
    with pytest.raises(PermissionError):
        Stranger(path, ASK, SEE)
    with strangers(path, (ELSE,)) as (one,):
        assert "ok" in one.ask("status")
        file = tmp_path / "qmon.yaml"
        file.write_text(file.read_text().replace("group: asking", "group: nosuch"))
        assert daemon.ctl("reload").returncode == 0
        assert one.get()["error"]["class"] == "Forbidden"
        assert door(path)[0] == 0o600


def test_without_the_groups_root_alone_is_served(
    qmond: StartQmond, open_folder: Path, tmp_path: Path
) -> None:
    groups = Groups(tmp_path / "groups")
    groups.set(seeing=SEE)
    daemon = started(qmond, open_folder, groups)
    assert door(daemon.socket)[0] == 0o600
    with pytest.raises(PermissionError):
        Stranger(daemon.socket, ASK, SEE)
    text = said(daemon, tmp_path)
    assert "there is no group asking: only root is served" in text
    assert "there is no group qmon-payload: only root may read the log" in text
    assert daemon.status()["front"]["starts"] == 1
    groups.set(asking=ASK)
    assert daemon.ctl("reload").returncode == 0
    assert "there is no group seeing: only root sees content" in said(daemon, tmp_path)
    assert door(daemon.socket) == (0o660, ASK)


def test_on_systemds_socket_the_groups_hold_too(
    qmond: StartQmond, open_folder: Path, tmp_path: Path
) -> None:
    """The file is systemd's, and stays as it is: the daemon refuses those who may not ask."""
    groups = Groups(tmp_path / "groups")
    groups.set(asking=ASK, seeing=SEE)
    path = open_folder / "qmond.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        os.chown(path, -1, ASK)
        path.chmod(0o660)
        daemon = started(qmond, open_folder, groups, {"socket": os.dup(listener.fileno())})
        with strangers(path, (ASK,)) as (one,):
            groups.set(seeing=SEE)
            assert daemon.ctl("reload").returncode == 0
            assert one.get()["error"]["class"] == "Forbidden"
        one = Stranger(path, ASK, SEE)
        assert one.get()["error"]["class"] == "Forbidden"
        one.close()
        assert door(path) == (0o660, ASK)
        assert "there is no group asking: only root is served" in said(daemon, tmp_path)
        groups.set(asking=ELSE)
        assert daemon.ctl("reload").returncode == 0
        warned = f"{path} is not for the group asking: set SocketGroup= of qmond.socket"
        assert warned in said(daemon, tmp_path)
        daemon.stop()


def test_the_files_of_the_log_are_for_its_group(
    qmond: StartQmond, tmp_path: Path, build: Build
) -> None:
    groups = Groups(tmp_path / "groups")
    groups.set(reading=SEE)
    log = {"group": "reading", "compress_delay": "1s", "dir": str(tmp_path / "log")}
    os.umask(0o022)
    daemon = qmond(patch=groups.patch, log=log)
    run_guest(build)
    assert daemon.ctl("rotate").returncode == 0
    rotated = next(daemon.log.glob("events-*.jsonl"))
    assert door(rotated) == (0o640, SEE)
    groups.set(reading=ELSE)
    rewrite(daemon, log={"group": "nosuch"})
    done = daemon.ctl("reload")
    assert "only with a restart: log.group" in done.stderr
    wait_until(lambda: list(daemon.log.glob("events-*.zst")))
    run_guest(build)
    assert daemon.ctl("rotate").returncode == 0
    files = [path for path in daemon.log.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".jsonl", ".zst"}
    assert {path.parent.name for path in files} == {"log", "lives"}
    assert {door(path) for path in files} == {(0o640, SEE)}
    assert {door(path) for path in (daemon.log, daemon.log / "lives")} == {(0o750, SEE)}
    daemon.end()  # the books cannot be checked: what is compressed is not looked at
