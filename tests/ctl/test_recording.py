"""What `qmonctl record` makes of lines, and how it runs a command; with real guests: root tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peer import HELLO, peers

from qmond.ctl import main
from qmond.ctl.runs import command
from qmond.ctl.runs.commandtree import CommandTree
from qmond.ctl.runs.digest import Digest
from qmond.ctl.runs.recording import Recording
from qmond.errors import QmondError
from qmond.escape import json_bytes

Event = dict[str, Any]
ROOT = 50


def adopt(pid: int, *parents: int, **more: Any) -> Event:
    rows = [{"pid": parent, "comm": "sh"} for parent in parents]
    about = {"argv": ["qemu-arm", "x"], "bin": "qemu-arm", "arch": "arm", "guest": "x"}
    return {
        "event": "TRACK_ADOPT",
        "pid": pid,
        "ppid": parents[0],
        "parents": rows,
        **about,
        **more,
    }


def fork(parent: int, child: int) -> Event:
    image = {"tid": parent, "arch": "arm", "guest": "x"}
    return {"event": "TRACK_FORK", "parent": parent, "child": child, **image}


def call(name: str, pid: int, tid: int = 0, **more: Any) -> Event:
    return {"event": name, "pid": pid, "tid": tid or pid, "arch": "arm", "guest": "x", **more}


def end(pid: int, code: int | None = 0, signal: int | None = None) -> Event:
    return {"event": "EXIT", "pid": pid, "code": code, "signal": signal}


def switch(pid: int, **more: int) -> Event:
    return {"event": "SCHED_SWITCH", "prev_pid": 7, "next_pid": 8, "pid": pid, **more}


def test_a_tree_grows_by_forks_and_ancestors_and_forgets_the_dead() -> None:
    lines: list[tuple[Event, bool]] = [
        (adopt(60, 1), False),
        (fork(60, 61), False),
        (adopt(70, 69, 68, ROOT, 1), True),  # the two between are natives
        (call("READ", 70, 71), True),
        (switch(70), True),
        (switch(70, next_tgid=60), True),
        (switch(60, next_tgid=70), True),
        (switch(60), False),
        (fork(70, 72), True),
        (call("WRITE", 72), True),
        (call("WRITE", 61), False),
        (end(70), True),
        (switch(70), False),
        (call("READ", 70), False),
        (adopt(70, 1), False),  # its number is another's now
        (fork(60, 72), False),  # and so is its child's, whose end was lost
        (call("READ", 72), False),
        (adopt(73, 72, 70, 1), False),
        ({"event": "LOST", "count": 1}, False),
        ({"evt": "ALLOC_SUM", "pid": -1}, False),
    ]
    tree = CommandTree(ROOT)
    assert [tree.has(event) for event, _ in lines] == [ours for _, ours in lines]
    assert tree.members == {ROOT}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ({"NET", "-CONNECT"}, ["BIND"]),
        ({"-SCHED"}, ["BIND", "CONNECT", "EXIT", "LOST", "TRACK_FORK"]),
        (None, None),
        ({"NOSUCH"}, "--event: unknown: NOSUCH; there are the groups all"),
    ],
)
def test_groups_stand_for_their_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: set[str] | None, wanted: object
) -> None:
    monkeypatch.setattr(command, "in_first_pid_namespace", lambda: True)
    names = ["START", "LOST", "TRACK_FORK", "EXIT", "SCHED_SWITCH", "CONNECT", "BIND"]
    enabled = {"fields": "full", "events": [*names, "TRACK_ADOPT"], "capture": {"bytes": 1}}
    answers = [
        {"id": 1, "ok": enabled},
        {"id": 2, "ok": [{"name": name} for name in names]},
    ]
    with peers(tmp_path / "s", (HELLO, *(json_bytes(row) + b"\n" for row in answers))):
        try:
            recording = Recording(tmp_path / "s", ["true"], frozenset(words or ()) or None)
        except QmondError as error:
            assert str(wanted) in str(error)
        else:
            recording._client.close()
            assert recording.summary()["events"] == wanted


def test_a_digest_has_processes_images_files_and_sockets() -> None:
    digest = Digest()
    for event in [
        adopt(70, ROOT, argv=["qemu-arm", "./\x1b[31mred\n"]),
        call("TRACK_OPENAT", 70, file="/a\nb"),
        call("TRACK_OPENAT", 70, file="/a\nb"),
        fork(70, 71),
        fork(70, 72),
        {**call("WRITE", 71, len=7), "guest": "/bin/echo", "arch": None},
        call("READ", 72, len=5),
        call("CONNECT", 72, addr="127.0.0.1:9"),
        end(71, 3),
        fork(70, 71),  # a number that is used again
        end(71, None, 9),
        end(70),
    ]:
        digest.add(event)
    digest.count("ALLOC_SUM", {"71": 4, "99": 5, "others": 6})
    assert "".join(digest.tree()) == (
        "70 qemu-arm ./\\x1b[31mred\\n [x (arm)]: exit 0\n"
        "├─ 71 fork [x (arm); /bin/echo (native)]: exit 3\n"
        "├─ 72 fork [x (arm)]: no end was seen\n"
        "└─ 71 fork [x (arm)]: signal 9\n"
    )
    assert "".join(digest.files()).splitlines()[1:] == ["       2 /a\\nb"]
    assert "".join(digest.sockets()).splitlines()[1:] == ["       1 127.0.0.1:9"]
    assert (digest.running, len(digest.processes)) == ([72], 4)
    assert (digest.bytes, digest.calls) == ({"WRITE": 7, "READ": 5}, {"ALLOC_SUM": 4})


RUN = """
import sys
from qmond.ctl.runs import command
with command.adopting_orphans(), command.holding_signals() as mask:
    status, why = command.run(sys.argv[1:], mask)
sys.stderr.write(why)
sys.exit(status)
"""


def start(*words: str) -> subprocess.Popen[str]:
    """Begin it as from a shell, though the tests may themselves run under nohup(1)."""
    return subprocess.Popen(
        ["env", "--default-signal", sys.executable, "-c", RUN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["sh", "-c", "exit 3"], 3, ""),
        (["sh", "-c", "kill -9 $$"], 137, ""),
        (["/no/such/thing"], 127, "/no/such/thing: No such file or directory"),
        (["no-such-thing"], 127, "no-such-thing: No such file or directory"),
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
    ],
)
def test_the_status_is_as_a_shell_has_it(words: list[str], status: int, said: str) -> None:
    with start(*words) as process:
        assert (process.wait(20), process.communicate()[1]) == (status, said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_command_and_it_alone(number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got; exit 5' {name}; echo ready; while :; do sleep 0.1; done"
    with start("sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "got\n"
        assert process.wait(20) == 5


def test_a_command_has_what_its_caller_had() -> None:
    """No signal is blocked or ignored in it that was not before: /proc tells."""
    with start("sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status") as process:
        assert process.stdout is not None
        rows = [line.split()[1] for line in process.stdout]
    own = 0b11 << 31  # glibc's own two, 32 and 33, which its posix_spawn ignores
    assert {int(row, 16) & ~own for row in rows} == {0}


def test_orphans_come_to_it() -> None:
    """What a shell left behind has the runner as its parent, not init."""
    script = "((sleep 0.3; exec grep PPid /proc/self/status) &); sleep 1"
    with start("sh", "-c", script) as process:
        assert process.stdout is not None
        found = process.stdout.read()
    assert found == f"PPid:\t{process.pid}\n"


def test_it_is_in_the_namespace_that_it_says() -> None:
    found = os.readlink("/proc/self/ns/pid") == "pid:[4026531836]"
    assert command.in_first_pid_namespace() is found


def test_no_daemon_is_the_records_own_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--socket",
        str(tmp_path / "none"),
        "record",
        "-o",
        str(tmp_path / "run"),
        "--",
        "true",
    ]
    assert main(words) == 125
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err.startswith("qmonctl: ")
