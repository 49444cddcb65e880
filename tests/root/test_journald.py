"""A real daemon, and a real journald of the test's own, in a mount namespace of their own."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE, Qmond, wait_until

from qmond.systemd.messages import MessageId

pytestmark = pytest.mark.root
StartQmond = Callable[..., Qmond]
Build = Callable[[str, str], Path]

ROOT = Path(__file__).parents[2]
JOURNALD = "/usr/lib/systemd/systemd-journald"
SETUP = f"""
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
[ ! -d /var/log/journal ] || mount -t tmpfs tmpfs /var/log/journal
echo 512 >/proc/sys/net/unix/max_dgram_qlen # as systemd sets it
exec {JOURNALD}
"""
UNDER_SYSTEMD = """
import os, socket
stream = socket.socket(socket.AF_UNIX); stream.connect("/run/systemd/journal/stdout")
stream.sendall(b"qmond\\nqmond.service\\n6\\n1\\n0\\n0\\n0\\n")  # what systemd says of a service's
os.dup2(stream.fileno(), 2)
found = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
"""


class Journal:
    """A running journald; `under` is a command that runs another where it is."""

    def __init__(self, pid: int) -> None:
        self.under = ["nsenter", f"--target={pid}", "--mount", "--net"]

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """Return what it has."""
        command = [*self.under, "journalctl", "--output=json", "--no-pager", "--all", *matches]
        done = subprocess.run(command, capture_output=True, check=False)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def of(self, kind: MessageId) -> list[dict[str, Any]]:
        """Return the messages of a kind, once there is one."""
        return wait_until(lambda: self.entries(f"MESSAGE_ID={kind}"))


@pytest.fixture
def journal() -> Iterator[Journal]:
    command = ["unshare", "--mount", "--net", "sh", "-c", SETUP]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        found = Journal(process.pid)
        probe = [*found.under, "test", "-S", "/run/systemd/journal/socket"]
        try:
            wait_until(lambda: subprocess.run(probe, check=False).returncode == 0)
            yield found
        finally:
            process.terminate()
            process.wait(PATIENCE)


def test_a_daemons_life_is_in_the_journal(
    qmond: StartQmond, build: Build, journal: Journal, tmp_path: Path
) -> None:
    path = tmp_path / "\n<0>PRIORITY=0\nx"  # a hostile name, of the log's directory
    path.mkdir()
    daemon = qmond(
        under=journal.under,
        patch=UNDER_SYSTEMD,
        journal={"events": ["EXEC", "EXIT", "WRITE"]},
        log={"dir": str(path)},
        socket={"path": str(tmp_path / "qmond.sock")},
    )
    (start,) = journal.of(MessageId.START)
    assert start["PRIORITY"] == "6"
    assert start["SYSLOG_IDENTIFIER"] == "qmond"
    assert start["_PID"] == str(daemon.pid)
    assert start["_TRANSPORT"] == "journal"
    assert start["MESSAGE"].endswith(f"log {path}/events.jsonl")
    guest = subprocess.Popen(["qemu-aarch64-static", build("count", "aarch64"), "3"])
    assert guest.wait(PATIENCE) == 0
    wait_until(lambda: journal.entries("QMOND_EVENT=EXIT", f"QMOND_PID={guest.pid}"))
    lines = {event["seq"]: event for event in daemon.events() if "seq" in event}
    told = journal.entries(f"QMOND_PID={guest.pid}")
    assert [entry["QMOND_EVENT"] for entry in told].count("WRITE") == 3
    for entry in told:
        line = lines[int(entry["QMOND_SEQ"])]
        if entry["QMOND_EVENT"] == "WRITE":
            assert line.pop("buf")
            line["redacted"] = True
        assert json.loads(entry["MESSAGE"]) == line
    daemon.stop()
    (stop,) = journal.of(MessageId.STOP)
    assert stop["MESSAGE"] == "stopped"
    assert not any(entry["PRIORITY"] == "0" for entry in journal.entries("SYSLOG_IDENTIFIER=qmond"))


def test_a_wrong_configuration_is_in_the_journal(journal: Journal, tmp_path: Path) -> None:
    file = tmp_path / "qmon.yaml"
    file.write_text("fields: some\nring: {size: 5M}\n")
    main = f"{UNDER_SYSTEMD}\nimport sys; from qmond.__main__ import main; sys.exit(main())"
    command = [*journal.under, sys.executable, "-c", main, "--config", str(file)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (78, b"")
    (entry,) = journal.of(MessageId.BAD_CONFIG)
    assert entry["PRIORITY"] == "2"
    assert [line.split(": ")[0] for line in entry["MESSAGE"].splitlines()] == [
        f"{file}:1",
        f"{file}:2",
    ]


def test_loss_a_failing_log_a_stepped_clock_and_a_slow_client_are_in_the_journal(
    qmond: StartQmond, build: Build, journal: Journal, tmp_path: Path
) -> None:
    """The clock is not stepped really: the host's is everybody's."""
    small = tmp_path / "small"
    small.mkdir()
    patch = """
from qmond.clock import StepWatch
said = []
StepWatch.stepped = lambda self: not said and not said.append(1)
"""
    mount = [*journal.under, "mount", "-t", "tmpfs", "-o", "size=1M,mode=750", "tmpfs", str(small)]
    subprocess.run(mount, check=True)
    daemon = qmond(
        under=journal.under,
        patch=UNDER_SYSTEMD + patch,
        ring={"size": "64K"},
        log={"dir": str(small), "min_free": "0"},
        socket={
            "path": str(tmp_path / "qmond.sock"),
            "client_timeout": "1s",
            "client_buffer": "1M",
        },
    )
    (step,) = journal.of(MessageId.CLOCK_STEP)
    assert float(step["QMOND_OFFSET"]) > 1e9
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        client.sendall(b'{"op":"tail"}\n')
        os.kill(daemon.pid, signal.SIGSTOP)
        storm = subprocess.Popen(["qemu-aarch64-static", build("count", "aarch64"), "20000"])
        storm.wait(PATIENCE)
        os.kill(daemon.pid, signal.SIGCONT)
        subprocess.run(["qemu-aarch64-static", build("count", "aarch64"), "20000"], check=True)
        loss = journal.of(MessageId.LOSS)[0]
        assert (loss["QMOND_STAGE"], loss["PRIORITY"]) == ("ring", "4")
        assert int(loss["QMOND_LOST"]) > 1000
        assert "WRITE" in loss["QMOND_EVENT"]
        failing = journal.of(MessageId.LOG_FAILING)[0]
        assert (failing["QMOND_STAGE"], failing["PRIORITY"]) == ("log", "3")
        cut = journal.of(MessageId.CLIENT_CUT_OFF)[0]
        assert cut["QMOND_CLIENT_PID"] == str(os.getpid())
        assert cut["QMOND_CLIENT_UID"] == "0"
        assert int(cut["QMOND_DROPPED"]) >= 0
    subprocess.run([*journal.under, "mount", "-o", "remount,size=64M", str(small)], check=True)
    subprocess.run(["qemu-aarch64-static", build("count", "aarch64"), "3"], check=True)
    back = journal.of(MessageId.LOG_BACK)[0]
    assert int(back["QMOND_LOST"]) > 1000
    daemon.end()  # its log is where only it and journald see it
