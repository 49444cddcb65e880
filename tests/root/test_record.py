"""`qmonctl record`: a run of a command, whole, and nothing else's."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE, QMONCTL, Qmond, wait_until
from truth import whole_lines

pytestmark = pytest.mark.root
StartQmond = Callable[..., Qmond]
Build = Callable[[str, str], Path]

BUSYBOX = Path(sys.executable).parent.parent / "guests/busybox-arm64"
EMULATED = f"qemu-aarch64-static {BUSYBOX}"
CLOSED_PORT = "9"


def command(daemon: Qmond, output: Path, *words: object, options: tuple[str, ...] = ()) -> Any:
    socket = ["--socket", str(daemon.socket)]
    return [str(QMONCTL), *socket, "record", "-o", str(output), *options, "--", *map(str, words)]


def execute(words: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, capture_output=True, check=False, timeout=120)


def bundle(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    lines = (folder / "events.jsonl").read_bytes().splitlines()
    return json.loads((folder / "summary.json").read_text()), [json.loads(row) for row in lines]


def processes_of(event: dict[str, Any]) -> set[int]:
    """Return the processes, or the threads, that a line is of."""
    keys = ("pid", "parent", "prev_pid", "next_pid")
    return {event[key] for key in keys if key in event} - {-1}


def without_switches(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event.get("event") != "SCHED_SWITCH"]


def test_all_of_a_run_and_nothing_else(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    """A native shell between them, a guest that others run meanwhile, a pipe of two guests."""
    daemon = qmond()
    folder = tmp_path / "run"
    script = f"{EMULATED} echo one two | {EMULATED} cat; exit 3"
    other = subprocess.Popen(["qemu-aarch64-static", build("storm", "aarch64"), "20000"])
    done = execute(command(daemon, folder, "sh", "-c", script))
    other.wait()
    assert (done.returncode, done.stdout) == (3, b"one two\n")
    summary, events = bundle(folder)
    assert summary["complete"], summary["missing"]
    assert (summary["exit"], summary["processes"], summary["running"]) == (3, 2, [])
    assert all(other.pid not in processes_of(event) for event in events)
    assert [event["event"] for event in events].count("EXIT") == 2
    assert [e["buf"] for e in events if e["event"] == "WRITE"] == ["one two\n"] * 2
    assert summary["counts"]["WRITE"] == 2
    assert summary["bytes"]["WRITE"] == 16
    pids = {event["pid"] for event in events if event["event"] == "TRACK_ADOPT"}
    log = daemon.stop()
    assert without_switches(events) == without_switches(
        [event for event in log if processes_of(event) & pids]
    )
    # a thread is known by the first line that it is in
    threads = pids | {event["tid"] for event in events if "tid" in event}
    switches = [event for event in events if event["event"] == "SCHED_SWITCH"]
    assert all(processes_of(event) & threads for event in switches)
    of_them = [e for e in log if e.get("event") == "SCHED_SWITCH" and processes_of(e) & pids]
    assert [event for event in switches if processes_of(event) & pids] == of_them
    tree = (folder / "tree.txt").read_text().splitlines()
    assert len(tree) == 2
    assert any(f"{BUSYBOX} echo one two [{BUSYBOX} (aarch64)]: exit 0" in line for line in tree)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_counts_are_those_of_strace(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    """The command is strace: it runs the guest, and what it counts must be in the record."""
    daemon = qmond()
    (tmp_path / "in").write_bytes(b"what the guest reads\n")
    calls = "read,pread64,write,pwrite64,openat,connect,sendto,madvise,mprotect,socket"
    strace = ["strace", "-f", "-o", tmp_path / "strace", "-e", f"trace={calls}"]
    guest = ["qemu-aarch64-static", build("actions", "aarch64"), tmp_path, CLOSED_PORT]
    done = execute(command(daemon, tmp_path / "run", *strace, *guest))
    assert done.returncode == 7, done
    said = whole_lines((tmp_path / "strace").read_text())

    def count(pattern: str) -> int:
        return sum(bool(re.search(pattern, line)) for line in said)

    truth = {
        "READ": count(r" p?read(64)?\(.* = [1-9]"),
        "WRITE": count(r" p?write(64)?\((?!.*, 0\) += 0$)"),
        "TRACK_OPENAT": count(r" openat\("),
        "CONNECT": count(r" connect\("),
        "SENDTO": count(r" sendto\("),
        "MADVICE": count(r" madvise\("),
        "MPROTECT": count(r" mprotect\("),
        "SOCKET": count(r" socket\("),
    }
    summary, _ = bundle(tmp_path / "run")
    assert summary["complete"], summary["missing"]
    assert {name: summary["counts"].get(name, 0) for name in truth} == truth
    assert truth["CONNECT"] == 4
    tree = (tmp_path / "run/tree.txt").read_text()
    assert re.search(
        r"├─ \d+ fork \[.*actions-aarch64 \(aarch64\); /bin/echo \(native\)\]: exit 0", tree
    )
    assert re.search(r"└─ \d+ fork \[.*actions-aarch64 \(aarch64\)\]: exit 3", tree)
    sockets = (tmp_path / "run/sockets.txt").read_text()
    assert f"1 127.0.0.1:{CLOSED_PORT}\n" in sockets
    assert f"1 {tmp_path}/in\n" in (tmp_path / "run/files.txt").read_text()


def test_an_orphan_of_natives_is_of_the_tree(qmond: StartQmond, tmp_path: Path) -> None:
    """Nobody watches the natives, and the one that joins it to the command has ended."""
    daemon = qmond()
    os.mkfifo(tmp_path / "open")  # to be read until the orphan has ended
    orphan = f"exec 9>{tmp_path}/open; sleep 0.5; exec {EMULATED} echo late"
    script = f"(({orphan}) & ); cat {tmp_path}/open"
    done = execute(command(daemon, tmp_path / "run", "setsid", "-w", "sh", "-c", script))
    assert (done.returncode, done.stdout) == (0, b"late\n")
    _, events = bundle(tmp_path / "run")
    assert [event["buf"] for event in events if event["event"] == "WRITE"] == ["late\n"]


def test_who_lives_on_is_said(qmond: StartQmond, tmp_path: Path) -> None:
    daemon = qmond()
    begun = "until grep -q qemu /proc/$!/comm; do sleep 0.1; done"
    script = f"{EMULATED} sleep {PATIENCE} & {begun}"
    words = command(daemon, tmp_path / "run", "sh", "-c", script)
    # the guest has what stdout is, so that a pipe's end would be that of the guest
    assert subprocess.run(words, check=False).returncode == 0
    summary, _ = bundle(tmp_path / "run")
    (guest,) = summary["running"]
    os.kill(guest, signal.SIGKILL)
    assert ": no end was seen\n" in (tmp_path / "run/tree.txt").read_text()
    wait_until(lambda: not daemon.status()["tracked"])


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["sh", "-c", "kill -9 $$"], 137),
        (["/no/such/thing"], 127),
        (["/etc/passwd"], 126),
        ([*EMULATED.split(), "false"], 1),
    ],
)
def test_the_exit_status_is_the_commands(
    qmond: StartQmond, tmp_path: Path, words: list[str], status: int
) -> None:
    daemon = qmond()
    done = execute(command(daemon, tmp_path / "run", *words))
    assert done.returncode == status
    assert bundle(tmp_path / "run")[0]["exit"] == status
    again = execute(command(daemon, tmp_path / "run", *words))
    assert again.returncode == 125
    assert b"File exists" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_go_on_to_the_command(
    qmond: StartQmond, tmp_path: Path, number: signal.Signals
) -> None:
    daemon = qmond(events=["START", "END", "TRACK_ADOPT", "TRACK_FORK", "EXIT"])
    words = command(daemon, tmp_path / "run", *EMULATED.split(), "sleep", "60")
    with subprocess.Popen(words, stderr=subprocess.PIPE) as recording:
        wait_until(lambda: daemon.status()["tracked"])
        recording.send_signal(number)
        assert recording.wait(PATIENCE) == 128 + number
    summary, events = bundle(tmp_path / "run")
    assert not summary["complete"]
    assert "switched off in the daemon's configuration: " in summary["missing"][0]
    assert [e["signal"] for e in events if e["event"] == "EXIT"] == [number]


def test_an_archive_of_some_events(qmond: StartQmond, tmp_path: Path) -> None:
    daemon = qmond()
    words = [*EMULATED.split(), "echo", "secret"]
    output = tmp_path / "run.tar.gz"
    options = ("--event", "exit,TRACK_OPENAT")
    assert execute(command(daemon, output, *words, options=options)).returncode == 0
    assert output.stat().st_mode & 0o777 == 0o600
    subprocess.run(["tar", "-C", tmp_path, "-xf", output], check=True)
    summary, events = bundle(tmp_path / "run")
    assert {event["event"] for event in events} == {"EXIT", "TRACK_OPENAT"}
    assert (summary["complete"], summary["events"]) == (True, ["EXIT", "TRACK_OPENAT"])
    assert not [path.name for path in tmp_path.glob(".qmond*")]
    options = ("--event", "nosuch")
    refused = execute(command(daemon, tmp_path / "no", *words, options=options))
    assert refused.returncode == 2
    assert b"unknown: NOSUCH" in refused.stderr
    assert not (tmp_path / "no").exists()


def test_a_daemon_that_stops_meanwhile(qmond: StartQmond, tmp_path: Path) -> None:
    daemon = qmond()
    words = command(daemon, tmp_path / "run", *EMULATED.split(), "cat")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as recording:
        wait_until(lambda: daemon.status()["tracked"])
        daemon.stop()
        _, said = recording.communicate(timeout=PATIENCE)
    assert recording.returncode == 0
    assert b"NOT COMPLETE: the daemon stopped" in said
    assert not bundle(tmp_path / "run")[0]["complete"]


def test_a_storm_is_whole(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    """More lines than the reading keeps up with: they are read from the log later."""
    daemon = qmond(ring={"size": "64M"})
    guest = ["qemu-aarch64-static", build("storm", "aarch64"), "200000"]
    assert execute(command(daemon, tmp_path / "run", *guest)).returncode == 0
    summary, events = bundle(tmp_path / "run")
    assert summary["complete"], summary["missing"]
    assert events[-1]["event"] in {"EXIT", "SCHED_SWITCH"}
    assert summary["counts"]["WRITE"] >= 200_000
