"""`qmonctl record`: a run of a command, whole, and nothing else's."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import QMONCTL, Qmond

pytestmark = pytest.mark.root
StartQmond = Callable[..., Qmond]
Build = Callable[[str, str], Path]

BUSYBOX = Path(sys.executable).parent.parent / "guests/busybox-arm64"
EMULATED = f"qemu-aarch64-static {BUSYBOX}"


def command(daemon: Qmond, folder: Path, *words: str) -> list[str]:
    socket = ["--socket", str(daemon.socket)]
    return [str(QMONCTL), *socket, "record", "-o", str(folder), "--", *words]


def execute(words: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, capture_output=True, check=False)


def bundle(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    lines = (folder / "events.jsonl").read_bytes().splitlines()
    return json.loads((folder / "summary.json").read_text()), [json.loads(row) for row in lines]


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
    assert (summary["exit"], summary["processes"]) == (3, 2)
    assert other.pid not in {event.get("pid") for event in events}
    assert [event["event"] for event in events].count("EXIT") == 2
    assert [e["buf"] for e in events if e["event"] == "WRITE"] == ["one two\n"] * 2
    assert summary["counts"]["WRITE"] == 2
    pids = {event["pid"] for event in events if event["event"] == "TRACK_ADOPT"}
    log = daemon.stop()
    assert events == [event for event in log if event.get("pid", event.get("parent")) in pids]
    tree = (folder / "tree.txt").read_text()
    assert f"{BUSYBOX} echo one two: exit 0\n" in tree
    assert (folder / "files.txt").read_text()


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


def test_signals_go_on_to_the_command(qmond: StartQmond, tmp_path: Path) -> None:
    daemon = qmond(events=["START", "END", "TRACK_ADOPT", "TRACK_FORK", "EXIT"])
    words = command(daemon, tmp_path / "run", *EMULATED.split(), "sleep", "60")
    with subprocess.Popen(words, stderr=subprocess.PIPE) as recording:
        while not daemon.status()["tracked"]:
            time.sleep(0.05)
        recording.send_signal(signal.SIGTERM)
        assert recording.wait(30) == 128 + signal.SIGTERM
    summary, _ = bundle(tmp_path / "run")
    assert not summary["complete"]
    assert "switched off: " in summary["missing"][0]
