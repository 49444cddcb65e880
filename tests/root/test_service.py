"""What systemd has the daemon do: reload, hand over, take a socket, tell how it is.

The harness plays systemd here; a real one is in tests/systemd.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml
from conftest import Build, StartQmond
from harness import PATIENCE, Qmond, counting, wait_until, waiting

from qmond.client import Client


def rewrite(daemon: Qmond, **changes: Any) -> None:
    """Change sections of a daemon's configuration file."""
    file = daemon.socket.with_name("qmon.yaml")
    config = yaml.safe_load(file.read_text())
    for key, value in changes.items():
        inner = config.get(key)
        config[key] = inner | value if isinstance(inner, dict) else value
    file.write_text(yaml.safe_dump(config))


def test_reloads_what_can_change(qmond: StartQmond, build: Build) -> None:
    daemon = qmond(capture={"bytes": 4}, redact=[])
    with waiting("qemu-aarch64", build("waits", "aarch64")) as guest:
        command = ["qemu-aarch64-static", str(build("count", "aarch64")), "3"]
        with subprocess.Popen(command) as before:
            pass
        rewrite(
            daemon,
            capture={"bytes": 6},
            events=["START", "END", "TRACK_ADOPT", "EXEC", "WRITE", "EXIT"],
            limits={"WRITE": "2/s"},
            redact=["(001)"],
            match={"prefixes": ["qemu-", "sleep"]},
            ring={"size": "1M"},
        )
        with subprocess.Popen(["sleep", "60"]) as sleeper:
            done = daemon.ctl("reload")
            assert (done.returncode, done.stderr) == (
                0,
                "qmonctl: these keys change only with a restart: ring.size\n",
            )
            with Client(daemon.socket) as client:
                in_force = client.config()
            assert in_force["capture"]["bytes"] == 6
            assert in_force["ring"]["size"] == 16 << 20
            with subprocess.Popen(command) as after:
                pass
            sleeper.kill()
        guest.do(b"-")
    events = daemon.stop()
    rows = {
        pid: [e["buf"] for e in events if e.get("event") == "WRITE" and e.get("pid") == pid]
        for pid in (before.pid, after.pid)
    }
    assert rows == {before.pid: ["0000"] * 3, after.pid: ["000000"] * 2}
    assert [e["origin"] for e in events if e.get("pid") == sleeper.pid and "origin" in e] == [
        "procfs"
    ]
    kinds = {e["event"] for e in events if e.get("pid") == after.pid}
    assert kinds == {"TRACK_ADOPT", "WRITE", "EXIT"}
    assert events[-1]["totals"]["WRITE"]["suppressed"] >= 1


def test_a_wrong_configuration_changes_nothing(qmond: StartQmond) -> None:
    daemon = qmond(capture={"bytes": 4})
    rewrite(daemon, capture={"bytes": "lots"}, colour="red")
    done = daemon.ctl("reload")
    assert done.returncode == 1
    assert "capture.bytes: is 'lots'" in done.stderr
    assert "colour: unknown key" in done.stderr
    daemon.process.send_signal(signal.SIGHUP)
    said = daemon.socket.with_name("stderr")
    wait_until(lambda: said.read_text().count("the configuration stays as it was") == 2)
    with Client(daemon.socket) as client:
        assert client.config()["capture"]["bytes"] == 4
    rewrite(daemon, capture={"bytes": 5})
    file = daemon.socket.with_name("qmon.yaml")
    file.write_text(file.read_text().replace("colour: red\n", ""))
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "INFO: reloaded" in said.read_text())


def test_signals_that_reload_do_not_disturb_a_stop(qmond: StartQmond, build: Build) -> None:
    """A client that does not read makes the stop last for seconds."""
    daemon = qmond(socket={"client_timeout": "60s"})
    with Client(daemon.socket) as client:
        client.request("tail")
        command = ["qemu-aarch64-static", str(build("count", "aarch64")), "100000"]
        subprocess.run(command, check=True, timeout=PATIENCE)
        daemon.process.send_signal(signal.SIGTERM)
        while daemon.process.poll() is None:
            for number in (signal.SIGUSR1, signal.SIGHUP):
                daemon.process.send_signal(number)
            time.sleep(0.02)
    daemon.stopped = True
    assert daemon.process.returncode == 0
    assert daemon.events()[-1]["event"] == "END"


RESTART = """
import qmond.daemon.service
async def is_restart(): return True
qmond.daemon.service._is_restart = is_restart
"""


def test_a_restart_is_a_handover(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    """SIGTERM in the middle of a storm, five times: not an event missing, none twice."""
    config = {"ring": {"size": "64M"}, "log": {"compress": "none"}}
    daemon = qmond(patch=RESTART, **config)
    gaps = []
    with counting(build("count", "aarch64"), some=200, pause=5) as guest:
        for _ in range(5):
            daemon.write()
            assert guest.runs
            daemon.end()
            ended = time.monotonic()
            daemon = qmond(patch=RESTART, stored=daemon.stored, **config)
            gaps.append((ended, time.monotonic()))
        daemon.write()
        lines = guest.end()
    wait_until(lambda: daemon.status()["ring"]["used"] == 0)
    daemon.end()
    daemon = qmond(stored=daemon.stored, **config)
    events = daemon.stop()
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    mine = [e for e in events if e.get("event") == "WRITE" and e["pid"] == guest.pid]
    assert [e["buf"] for e in mine] == lines
    assert all(any(ended < e["ts"] < again for e in mine) for ended, again in gaps)
    assert [e.get("event") for e in events].count("END") == 1
    assert "handed over" in (tmp_path / "stderr").read_text()


def test_tells_how_it_is_and_that_it_works(qmond: StartQmond, build: Build) -> None:
    daemon = qmond()
    heard = daemon.heard
    wait_until(lambda: heard.count("WATCHDOG=1") >= 2)
    with waiting("qemu-aarch64", build("waits", "aarch64")):
        wait_until(lambda: any("watching 1 processes" in text for text in heard))
    daemon.ctl("reload")
    wait_until(lambda: "RELOADING=1" in heard)
    at = heard.index("RELOADING=1")
    assert heard[at + 1].startswith("MONOTONIC_USEC=")
    wait_until(lambda: "READY=1" in heard[at:])
    daemon.stop()
    assert "STOPPING=1" in heard


def test_serves_on_the_socket_that_it_is_given(qmond: StartQmond, tmp_path: Path) -> None:
    path = tmp_path / "qmond.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        daemon = qmond(stored={"socket": os.dup(listener.fileno())})
        assert daemon.status()["tracked"] == 0
        daemon.stop()
        assert path.exists(), "it is the socket unit's"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as early:
            early.connect(str(path))
            early.sendall(b'{"op":"status"}\n')
            daemon = qmond(stored={"socket": os.dup(listener.fileno())})
            early.settimeout(PATIENCE)
            with early.makefile("rb") as answers:
                assert b'"qmond"' in answers.readline()
                assert b'"uptime"' in answers.readline()
            daemon.stop()
