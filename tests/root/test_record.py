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
    """Return the processes that a line is of."""
    keys = ("pid", "parent", "next_tgid")
    return {event[key] for key in keys if key in event} - {-1}


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
    assert all(processes_of(event) - {other.pid} for event in events)
    assert [event["event"] for event in events].count("EXIT") == 2
    assert [e["buf"] for e in events if e["event"] == "WRITE"] == ["one two\n"] * 2
    assert summary["counts"]["WRITE"] == 2
    assert summary["bytes"]["WRITE"] == 16
    pids = {event["pid"] for event in events if event["event"] == "TRACK_ADOPT"}
    log = daemon.stop()
    assert events == [event for event in log if processes_of(event) & pids]
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
    assert summary["missing"] == [
        "the peers of 1 RECVFROM, 1 SENDTO are not known",
        "who connected to the addresses of 4 BIND is not known",
    ]
    assert {name: summary["counts"].get(name, 0) for name in truth} == truth
    assert truth["CONNECT"] == 4
    tree = (tmp_path / "run/tree.txt").read_text()
    assert re.search(
        r"├─ \d+ fork \[.*actions-aarch64 \(aarch64\); /bin/echo \(native\)\]: exit 0", tree
    )
    assert re.search(r"└─ \d+ fork \[.*actions-aarch64 \(aarch64\)\]: exit 3", tree)
    sockets = (tmp_path / "run/sockets.txt").read_text()
    assert f"1 connect  127.0.0.1:{CLOSED_PORT}\n" in sockets
    assert "1 bind     unix:@abstract\n" in sockets
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


def test_what_is_not_known_is_said(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    """Messages have no peers today, nobody traces accept, and a path has a largest length."""
    daemon = qmond()
    guest = ["qemu-aarch64-static", build("talks", "aarch64")]
    done = execute(command(daemon, tmp_path / "run", *guest))
    assert done.returncode == 0, done
    summary, events = bundle(tmp_path / "run")
    assert not summary["complete"]
    assert summary["missing"] == [
        "the peers of 1 RECVFROM, 3 SENDTO are not known",
        "who connected to the addresses of 3 BIND is not known",
        "text is cut, unreadable or withheld in 1 TRACK_OPENAT",
    ]
    bound = [event["addr"] for event in events if event["event"] == "BIND"]
    sockets = (tmp_path / "run/sockets.txt").read_text()
    assert sockets.splitlines()[1:] == [
        "       2 bind     127.0.0.1:0",
        "       1 bind     unix:@talks",
    ]
    assert bound == ["127.0.0.1:0"] * 2 + ["unix:@talks"]
    assert b"  NOT COMPLETE: the peers of 1 RECVFROM, 3 SENDTO are not known;" in done.stderr


GUEST_STAYS = f"{EMULATED} sleep {PATIENCE} & until grep -q qemu /proc/$!/comm; do sleep 0.1; done"


@pytest.mark.parametrize("options", [("--wait", "0"), ("--wait", "1500ms")])
def test_who_lives_on_is_said(qmond: StartQmond, tmp_path: Path, options: tuple[str, ...]) -> None:
    daemon = qmond()
    words = command(daemon, tmp_path / "run", "sh", "-c", GUEST_STAYS, options=options)
    # the guest has what stdout is, so that a pipe's end would be that of the guest
    assert subprocess.run(words, check=False).returncode == 0
    summary, _ = bundle(tmp_path / "run")
    (guest,) = summary["running"]
    os.kill(guest, signal.SIGKILL)
    assert summary["missing"] == [f"still running at the end: 1 process ({guest})"]
    assert ": no end was seen\n" in (tmp_path / "run/tree.txt").read_text()
    wait_until(lambda: not daemon.status()["tracked"])


def test_a_signal_ends_the_wait_and_not_the_guest(qmond: StartQmond, tmp_path: Path) -> None:
    daemon = qmond()
    options = ("--wait", "forever", "-q")
    words = command(daemon, tmp_path / "run", "sh", "-c", GUEST_STAYS, options=options)
    with subprocess.Popen(words, stderr=subprocess.PIPE) as recording:
        assert recording.stderr is not None
        assert b"waiting for processes" in recording.stderr.readline()
        recording.send_signal(signal.SIGTERM)
        said = recording.stderr.readline()
        assert recording.wait(PATIENCE) == 0
    (guest,) = bundle(tmp_path / "run")[0]["running"]
    assert f"NOT COMPLETE: still running at the end: 1 process ({guest})".encode() in said
    os.kill(guest, signal.SIGKILL)  # it has not ended


def test_it_waits_for_the_last_process(qmond: StartQmond, tmp_path: Path) -> None:
    """Also for a native one, which starts a guest only later."""
    daemon = qmond()
    script = f"(sleep 0.7; {EMULATED} echo late; exit 0) >{tmp_path}/late & exit 3"
    done = execute(command(daemon, tmp_path / "run", "sh", "-c", script))
    assert done.returncode == 3
    summary, events = bundle(tmp_path / "run")
    assert (summary["complete"], summary["exit"], summary["running"]) == (True, 3, [])
    assert [event["buf"] for event in events if event["event"] == "WRITE"] == ["late\n"]


@pytest.mark.parametrize(("word", "status"), [("true", 124), ("false", 1), ("no-such-thing", 127)])
def test_without_a_guest_it_has_a_status_of_its_own(
    qmond: StartQmond, tmp_path: Path, word: str, status: int
) -> None:
    daemon = qmond()
    done = execute(command(daemon, tmp_path / "run", word))
    assert done.returncode == status
    summary, _ = bundle(tmp_path / "run")
    assert summary["exit"] == (0 if word == "true" else status)
    assert not summary["complete"]
    assert "no guest was seen" in summary["missing"][0]
    assert b"NOT COMPLETE: no guest was seen" in done.stderr


def test_four_at_once_have_names_of_their_own(qmond: StartQmond, tmp_path: Path) -> None:
    daemon = qmond()
    socket = ["--socket", str(daemon.socket)]
    words = [str(QMONCTL), *socket, "record", "--quiet", "--", *EMULATED.split(), "echo"]
    started = [
        subprocess.Popen([*words, str(number)], cwd=tmp_path, stderr=subprocess.PIPE)
        for number in range(4)
    ]
    said = [process.communicate(timeout=120)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0] * 4, said
    folders = [line.split(": ")[1] for line in said]
    assert len(set(folders)) == 4
    for number, folder in enumerate(folders):
        summary, events = bundle(tmp_path / folder)
        assert summary["command"][-1] == str(number)
        assert [e["buf"] for e in events if e["event"] == "WRITE"] == [f"{number}\n"]


@pytest.mark.parametrize("proc", ["--mount-proc", "--mount"])
def test_in_another_pid_namespace(qmond: StartQmond, tmp_path: Path, proc: str) -> None:
    """Its process IDs are not those of the events; with the host's /proc and without."""
    daemon = qmond()
    script = f"{EMULATED} echo one | {EMULATED} cat; {EMULATED} true & exit 5"
    words = command(daemon, tmp_path / "run", "sh", "-c", script)
    with subprocess.Popen([*EMULATED.split(), "sleep", "60"]) as other:
        done = execute(["unshare", "--pid", "--fork", proc, *words])
        other.kill()
    assert (done.returncode, done.stdout) == (5, b"one\n")
    summary, events = bundle(tmp_path / "run")
    assert summary["complete"], summary["missing"]
    assert (summary["processes"], summary["running"]) == (3, [])
    adopted = [event for event in events if event["event"] == "TRACK_ADOPT"]
    assert sorted(event["argv"][2] for event in adopted) == ["cat", "echo", "true"]
    assert other.pid not in {event["pid"] for event in adopted}


def test_in_a_namespace_that_the_daemon_does_not_see(qmond: StartQmond, tmp_path: Path) -> None:
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    daemon = qmond(under=unshare)
    words = command(daemon, tmp_path / "run", "true")
    for inside in (unshare, ["nsenter", f"--target={daemon.pid}", "--pid", "--mount"]):
        refused = execute([*inside, *words])
        assert refused.returncode == 125
        assert b"--pid=host" in refused.stderr
    assert execute(words).returncode == 124, "on the host, it knows its own ID"


def test_a_guest_deep_below_the_command(qmond: StartQmond, tmp_path: Path) -> None:
    """It has more ancestors than TRACK_ADOPT has: record finds the others."""
    daemon = qmond()
    script = tmp_path / "nest"
    script.write_text(f'test $1 = 0 && exec {EMULATED} echo deep\nsh "$0" $(($1 - 1)); exit $?\n')
    done = execute(command(daemon, tmp_path / "run", "sh", script, 12))
    assert done.stdout == b"deep\n"
    summary, events = bundle(tmp_path / "run")
    assert summary["complete"], summary["missing"]
    (adopted,) = [event for event in events if event["event"] == "TRACK_ADOPT"]
    assert len(adopted["parents"]) == 8


@pytest.mark.parametrize("others", [False, True])
def test_what_limits_held_back_is_known_at_the_end(
    qmond: StartQmond, build: Build, tmp_path: Path, *, others: bool
) -> None:
    """The daemon reports it only once a second, of which process it was."""
    daemon = qmond(limits={"WRITE": "10/s"})
    guest = ["qemu-aarch64-static", str(build("storm", "aarch64")), "500"]
    quiet = ["sh", "-c", f"{EMULATED} true; sleep 0.5"]
    with subprocess.Popen(guest if others else ["true"]):
        done = execute(command(daemon, tmp_path / "run", *(quiet if others else guest)))
    assert done.returncode == 0, done
    missing = bundle(tmp_path / "run")[0]["missing"]
    assert [reason.split(": ")[0] for reason in missing] == (
        [] if others else ["SUPPRESSED by limits"]
    )


def test_a_guest_that_comes_under_watch_late(qmond: StartQmond, tmp_path: Path) -> None:
    """What it did before is not in the record."""
    config = {"match": {"prefixes": ["qemu-arm"]}}
    daemon = qmond(**config)
    words = command(daemon, tmp_path / "run", *EMULATED.split(), "cat")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as recording:
        child = Path(f"/proc/{recording.pid}/task/{recording.pid}/children")
        wait_until(lambda: child.read_text() and b"cat" in cmdline(int(child.read_text())))
        file = tmp_path / "qmon.yaml"
        file.write_text(file.read_text().replace("qemu-arm", "qemu-aarch64"))
        assert daemon.ctl("reload").returncode == 0
        wait_until(lambda: daemon.status()["tracked"])
        recording.communicate(timeout=PATIENCE)
    summary, events = bundle(tmp_path / "run")
    (pid,) = {event["pid"] for event in events if event["event"] == "TRACK_ADOPT"}
    assert summary["missing"] == [
        "the daemon's configuration was changed meanwhile: match",
        f"what was before TRACK_ADOPT is not known of 1 process ({pid})",
    ]


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_summary_is_printed_and_kept(qmond: StartQmond, build: Build, tmp_path: Path) -> None:
    daemon = qmond()
    guest = ["qemu-aarch64-static", build("actions", "aarch64"), tmp_path, CLOSED_PORT]
    (tmp_path / "in").write_bytes(b"what the guest reads\n")
    folder = tmp_path / "run"
    done = execute(command(daemon, folder, *guest))
    said = done.stderr.decode()
    assert said == (folder / "summary.txt").read_text()
    lines = said.splitlines()
    assert max(map(len, lines[:-1])) <= 78
    assert lines[-1].startswith(f"  more in {folder}: ")
    assert lines[0].endswith(f" processes, {sum(bundle(folder)[0]['counts'].values())} events")
    connected = f"  asked to connect to  127.0.0.1:{CLOSED_PORT}, [::1]:{CLOSED_PORT}, "
    assert any(line.startswith(connected) for line in lines), said
    assert any(re.match(r"  ran  .*actions-aarch64 \(aarch64\), ", line) for line in lines), said
    (opened,) = [line for line in lines if line.startswith("  asked to open ")]
    assert re.search(r"/in, and \d+ more in files.txt$", opened)
    assert "\x1b" not in said


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
    assert b"unknown: nosuch" in refused.stderr
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
