"""What `qmonctl record` makes of lines, and how it runs a command; with real guests: root tests."""

from __future__ import annotations

import base64
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import standin
from peer import HELLO, hello, peers

from qmond.ctl import main, record
from qmond.ctl.runs import ancestors, command, recording, summary
from qmond.ctl.runs.commandtree import CommandTree
from qmond.ctl.runs.digest import Digest
from qmond.ctl.runs.missing import Missing
from qmond.ctl.show.text import width
from qmond.errors import QmondError
from qmond.escape import json_bytes
from qmond.namespaces import in_first_pid_namespace

Event = dict[str, Any]
ROOT = 50


def adopt(pid: int, *parents: int, **more: Any) -> Event:
    rows = [{"pid": parent, "comm": "sh"} for parent in parents]
    about = {"argv": ["qemu-arm", "x"], "bin": "qemu-arm", "arch": "arm", "guest": "x"}
    return {
        "event": "TRACK_ADOPT",
        "origin": "exec",
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
    monkeypatch.setattr(recording, "in_first_pid_namespace", lambda: True)
    names = ["START", "LOST", "TRACK_FORK", "EXIT", "SCHED_SWITCH", "CONNECT", "BIND"]
    enabled = {
        "procfs": "/proc",
        "fields": "full",
        "events": [*names, "TRACK_ADOPT"],
        "capture": {"bytes": 1},
    }
    answers = [
        {"id": 1, "ok": enabled},
        {"id": 2, "ok": [{"name": name} for name in names]},
        {"id": 3, "ok": {"counters": {}}},
    ]
    with peers(tmp_path / "s", (HELLO, *(json_bytes(row) + b"\n" for row in answers))):
        try:
            found = recording.Recording(tmp_path / "s", ["true"], words)
        except QmondError as error:
            assert str(wanted) in str(error)
        else:
            found._client.close()
            assert found._summary()["events"] == wanted


def test_a_digest_has_processes_images_files_and_sockets() -> None:
    digest = Digest()
    for event in [
        adopt(70, ROOT, argv=["qemu-arm", "./\x1b[31mred\n"]),
        call("TRACK_OPENAT", 70, file="/a\nb"),
        call("TRACK_OPENAT", 70, file="/a\nb"),
        fork(70, 71),
        fork(70, 72),
        {**call("WRITE", 71, len=7, fd=1), "guest": "/bin/echo", "arch": None},
        call("READ", 72, len=5),
        call("CONNECT", 72, addr="127.0.0.1:9"),
        call("BIND", 72, addr="unix:/s", fd=3),
        call("SENDTO", 72, len=5),
        call("SENDTO", 72, len=5, addr="[::1]:53"),
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
    assert "".join(digest.sockets()).splitlines()[1:] == [
        "       1 bind     unix:/s",
        "       1 connect  127.0.0.1:9",
        "       1 sendto   [::1]:53",
    ]
    assert (digest.running, len(digest.processes)) == ([72], 4)
    assert (digest.bytes, digest.calls) == ({"WRITE": 7, "READ": 5}, {"ALLOC_SUM": 4})


PEERS = "the peers of 2 RECVFROM, 1 SENDTO are not known"
LATE = "what was before TRACK_ADOPT is not known of"
DAMAGED = "text is cut, unreadable or withheld in"


@pytest.mark.parametrize(
    ("events", "reasons"),
    [
        ([adopt(70, ROOT), call("WRITE", 70, buf="x", truncated=True)], []),
        ([call("CONNECT", 70, addr="127.0.0.1:9"), call("SENDTO", 70, addr="[::1]:53")], []),
        ([call("RECVFROM", 70, size=9), call("SENDTO", 70), call("RECVFROM", 70)], [PEERS]),
        (
            [call("BIND", 70, addr=addr) for addr in ("[::1]:0", "unix:@a", "family:16")],
            ["who connected to the addresses of 2 BIND is not known"],
        ),
        (
            [
                call("TRACK_OPENAT", 70, file="/a", truncated=True),
                call("TRACK_OPENAT", 70, file="", withheld=True),
                call("CONNECT", 70, addr="family:none", fault=True),
                call("WRITE", 70, buf="x", fault=True, truncated=True),
            ],
            [f"{DAMAGED} 1 CONNECT, 2 TRACK_OPENAT, 1 WRITE"],
        ),
        (
            [adopt(pid, ROOT, origin="procfs") for pid in range(70, 81)],
            [f"{LATE} 11 processes (70, 71, 72, 73, 74, 75, 76, 77, 78, 79, …)"],
        ),
        (
            [adopt(70, ROOT, argv=[], guest=None)],
            ["program and command line are not known of 1 process (70)"],
        ),
        (
            [call("IO_URING", 70), call("IO_URING", 70)],
            ["io_uring, whose I/O makes no system calls, is used by 1 process (70)"],
        ),
        (
            [call("READ", 70, redacted=True, truncated=True)] * 2,
            ["content is left out, because this user may not see it"],
        ),
    ],
)
def test_what_is_not_known_is_said_once(events: list[Event], reasons: list[str]) -> None:
    missing = Missing({"READ"})
    for event in events:
        missing.add(event)
    assert missing.reasons == reasons


def test_losses_are_added_up_unless_they_are_others() -> None:
    missing = Missing({"READ"})
    lost = {"stage": "ring", "by_event": {"READ": 2, "WRITE": 9}}
    for event in (lost, lost, lost | {"stage": "log", "by_event": {"WRITE": 9}}):
        missing.add_loss("LOST", event, {70})
    for pid, count in ((70, 1), (-1, 3), (60, 99)):
        missing.add_loss("SUPPRESSED", {"pid": pid, "by_event": {"READ": count}}, {70})
    missing.add_loss("DROPPED", {"count": 5}, {70})
    missing.add_loss("GAP", {"from_seq": 3, "to_seq": 4}, {70})
    assert missing.reasons == [
        "lines 3 to 4 are no longer in the log",
        "LOST at the ring, by all processes: 4 READ",
        "SUPPRESSED by limits: 4 READ",
        "DROPPED: 5 lines, because this program was too slow",
    ]


def test_losses_that_no_line_reports_yet_count() -> None:
    missing = Missing({"READ"})
    missing.add_loss("LOST", {"stage": "ring", "by_event": {"READ": 2}}, {70})
    missing.count({"READ": 2}, {})
    assert len(missing.reasons) == 1
    missing.count({"READ": 5}, {})
    assert missing.reasons[1:] == ["LOST, by all processes: 3 READ"]


def test_what_was_suppressed_is_checked_against_the_count() -> None:
    missing = Missing({"READ"})
    missing.add_loss("SUPPRESSED", {"pid": 60, "by_event": {"READ": 4}}, {70})
    missing.count({}, {"READ": 4})
    assert missing.reasons == []
    missing.count({}, {"READ": 6})
    assert missing.reasons == ["SUPPRESSED, not known of which process: 2 READ"]


def test_the_reasons_have_an_end() -> None:
    missing = Missing(())
    for number in range(99):
        missing.note(str(number))
    assert missing.reasons == [*map(str, range(20)), "and more"]


def test_a_summary_says_what_was_asked_for() -> None:
    digest = Digest()
    opened = ["/proc/self/maps", "x", "/lib/libc.so.6", "/etc/hostname", "/\x1b[31m"]
    for event in [
        adopt(70, ROOT),
        *(call("TRACK_OPENAT", 70, file=path) for path in opened),
        fork(70, 71),
        *(call("EXEC", 71, filename=f"{folder}/echo") for folder in ("/usr/local/bin", "/bin")),
        {**call("WRITE", 71, fd=1, len=7), "guest": "/bin/echo", "arch": None},
        call("WRITE", 71, fd=1, len=3),
        call("WRITE", 70, fd=9, len=4),
        call("CONNECT", 70, addr="127.0.0.1:9"),
        call("BIND", 70, addr="unix:/s"),
        call("SIGNAL_GENERATE", 70, sig=17),
        call("SIGNAL_GENERATE", 70, sig=10),
        end(71, None, 9),
        end(70),
    ]:
        digest.add(event)
    run = summary.Run(["qemu-arm", "x"], 0, 0.041)
    assert "".join(summary.lines(digest, run, [], "run")) == (
        "qemu-arm x: exit 0 after 0.04 s, 2 processes, 18 events\n"
        "  ran                  x (arm), /bin/echo\n"
        "  asked to execute     /usr/local/bin/echo\n"
        "  asked to open        /etc/hostname, /\\x1b[31m, and 3 more in files.txt\n"
        "  asked to connect to  127.0.0.1:9\n"
        "  asked to bind        unix:/s\n"
        "  asked to write       10 bytes to descriptor 1, 4 bytes to others\n"
        "  signals              1 SIGUSR1, 1 SIGCHLD\n"
        "  ended otherwise      71 signal 9\n"
        "  complete: nothing is known to be missing\n"
        "  more in run: tree.txt, files.txt, sockets.txt, events.jsonl, summary.json\n"
    )


def test_a_summary_is_short_and_hides_nothing() -> None:
    digest = Digest()
    digest.add(adopt(70, ROOT))
    for number in range(1000):
        digest.add(call("TRACK_OPENAT", 70, file="/" + "字" * 99 + f"/{number}"))
    run = summary.Run(["x" * 999], 1, 0)
    reasons = [f"reason {number}" for number in range(9)]
    lines = "".join(summary.lines(digest, run, reasons, "run")).splitlines()
    assert max(map(width, lines)) <= 78
    assert any(line.endswith("字/0, and 999 more in files.txt") for line in lines)
    said = " ".join(line.strip() for line in lines)
    assert "NOT COMPLETE: reason 0; reason 1; reason 2; reason 3; and 5 more reasons in" in said
    assert len(lines) < 12


def test_the_ancestors_are_told_to_the_first() -> None:
    found, are_all = ancestors.above(os.getpid())
    assert (found[0], are_all) == (os.getppid(), True)
    assert found[-1] in {0, 1}
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert ancestors.above(gone.pid) == ([], False)


@pytest.mark.parametrize(
    ("about", "in_first", "found"),
    [({}, True, None), ({"pid": 7}, True, None), ({"pid": 7}, False, 7)],
)
def test_the_root_is_this_process_as_events_name_it(
    about: Event, in_first: object, found: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "in_first_pid_namespace", lambda: in_first)
    assert recording._own_id(about, Path("/proc")) == (found or os.getpid())


@pytest.mark.parametrize("about", [{}, {"pid": None}])
def test_without_an_id_it_says_what_to_do(about: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "in_first_pid_namespace", lambda: False)
    with pytest.raises(QmondError, match="--pid=host"):
        recording._own_id(about, Path("/nowhere"))


def test_a_long_wait_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(recording, "_SLOW", 0.05)
    with recording._slowly(lambda: told.append("long")):
        time.sleep(0.3)
    monkeypatch.setattr(recording, "_SLOW", 60)
    with recording._slowly(lambda: told.append("short")):
        pass
    assert told == ["long"]


def test_a_default_name_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [record._new_folder() for _ in range(5)]
    assert len(set(folders)) == 5
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("forever", math.inf), ("250ms", 0.25)])
def test_the_wait_is_a_time(text: str, seconds: float) -> None:
    assert record._wait(text) == seconds


RUN = """
import sys
import time
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
        ([""], 127, "'': No such file or directory"),
        (["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
    ],
)
def test_the_status_is_as_a_shell_has_it(words: list[str], status: int, said: str) -> None:
    with start(*words) as process:
        assert (process.wait(20), process.communicate()[1]) == (status, said)


def test_a_signal_that_another_thread_got_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_LOOK", 0.05)
    monkeypatch.setattr(command, "_WAITED_FOR", {signal.SIGUSR2})  # nobody sends that
    pid = os.posix_spawnp("sh", ["sh", "-c", "sleep 0.1; exit 3"], os.environ)
    assert command._await(pid) == 3


@pytest.mark.parametrize("output", ["", "x.zip", "x.tar", "x.tar.xz", "x.jsonl.gz"])
def test_an_archive_of_another_kind_is_refused(
    output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["record", "-o", output, "--", "true"])
    assert caught.value.code == 2
    assert "ends in .tar.gz or .tgz" in capsys.readouterr().err


def test_the_command_belongs_after_the_hyphens(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["sh", "-c", "x"], "put the command after --"),
        (["--wait", "-5s", "--", "true"], "0 or forever, is needed"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["record", *words])
        assert caught.value.code == 2
        assert said in capsys.readouterr().err


def test_a_fault_is_not_the_commands_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(recording, "Recording", fail)
    assert main(["record", "-o", str(tmp_path / "x"), "--", "true"]) == 125
    assert "internal fault: ZeroDivisionError" in capsys.readouterr().err


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


WAIT = """
import sys, time
from qmond.ctl.runs import command
with command.adopting_orphans(), command.holding_signals() as mask:
    command.run(["sh", "-c", sys.argv[2]], mask)
    print("ended", flush=True)
    since = time.monotonic()
    command.await_descendants(float(sys.argv[1]), lambda: print("slow", flush=True))
    took = time.monotonic() - since
    print(took, command.has_descendants(), len(command.children()))
"""


def wait(seconds: str, script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WAIT, seconds, script], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("seconds", "script", "least", "most", "are_left"),
    [
        ("30", "true", 0, 1, "False"),
        ("inf", "((sleep 0.7; exec sleep 0.6) &)", 1.2, 20, "False"),
        ("0.3", "sleep 30 >/dev/null & true", 0.3, 10, "True"),
        ("0", "sleep 30 >/dev/null & true", 0, 1, "True"),
    ],
)
def test_it_waits_for_what_the_command_left(
    seconds: str, script: str, least: float, most: float, are_left: str
) -> None:
    with wait(seconds, script) as process:
        out, _ = process.communicate(timeout=60)
    took, left, children = out.splitlines()[-1].split()
    assert least <= float(took) < most
    assert (left, children) == (are_left, str(int(are_left == "True")))
    assert ("slow" in out) is (float(took) > 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_alone(number: signal.Signals) -> None:
    with wait("inf", "sh -c 'sleep 3; exit' >/dev/null & true") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ended\n"
        process.send_signal(number)
        took, are_left, _ = process.stdout.readline().split()
    assert float(took) < 3
    assert are_left == "True"


def test_it_is_in_the_namespace_that_it_says() -> None:
    found = os.readlink("/proc/self/ns/pid") == "pid:[4026531836]"
    assert in_first_pid_namespace() is found


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


def test_lines_that_make_no_sense_are_told_and_those_that_were_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a daemon that is another one at the end."""
    newest = iter((0, 7, 7))
    monkeypatch.setattr(recording, "in_first_pid_namespace", lambda: True)
    monkeypatch.setattr(standin, "LINE", {"ts": 1.5})
    monkeypatch.setattr(standin, "hello", lambda _: hello(next(newest)))
    words = ["record", "-q", "-o", str(tmp_path / "out"), "--", "true"]
    with standin.standing_in(tmp_path / "s", standin.answers(tmp_path)):
        assert main(["--socket", str(tmp_path / "s"), *words]) == 124
    said = capsys.readouterr().err
    assert "a line that makes no sense: KeyError('evt'); the last line was 0; " in said
    assert "lines 1 to 7 were not received; " in said


def record_with(
    path: Path, *words: str | bytes, **more: Any
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run qmonctl's record as a process, with the stand-in for the daemon; returns its folder."""
    out = path / "out"
    code = "import sys; from qmond.ctl import main; sys.exit(main())"
    begin = [sys.executable, "-c", code, "--socket", str(path / "s"), "record", "-o", str(out)]
    known = standin.answers(path)
    names = [row["name"] for row in known["events"]]
    known["status"]["counters"] = dict.fromkeys(names, standin.COUNTER)
    with standin.standing_in(path / "s", known):
        done = subprocess.run(
            [*begin, *words], capture_output=True, text=True, timeout=60, check=False, **more
        )
    return done, out


BAD = b"/\xff\xc3\xa9"


@pytest.mark.parametrize("locale", [{}, {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_bytes_that_are_no_text_are_kept(tmp_path: Path, locale: dict[str, str]) -> None:
    folder = os.fsencode(tmp_path) + BAD
    os.mkdir(folder)
    words = ("--", "sh", "-c", "exit 3", BAD, "é")
    env = os.environ | locale | {"LC_ALL": "C" if locale else "C.UTF-8"}
    done, out = record_with(tmp_path, *words, cwd=folder, env=env)
    assert done.returncode == 3, done.stderr
    said = json.loads((out / "summary.json").read_bytes())
    assert said["command"] == ["sh", "-c", "exit 3", "/\ufffdé", "é"]
    assert [base64.b64decode(word) for word in said["command_b64"]][3:] == [BAD, "é".encode()]
    assert said["directory"] == f"{tmp_path}/\ufffdé"
    assert base64.b64decode(said["directory_b64"]) == folder
    assert "exit 3 /\ufffdé é: " in (out / "summary.txt").read_text(encoding="utf-8")


def test_texts_have_no_second_form(tmp_path: Path) -> None:
    done, out = record_with(tmp_path, "--", "sh", "-c", "exit 3", "é")
    assert done.returncode == 3
    said = json.loads((out / "summary.json").read_bytes())
    assert said["command"][-1] == "é"
    assert not [key for key in said if key.endswith("_b64")]


def test_a_command_that_is_no_text_is_told(tmp_path: Path) -> None:
    done, _ = record_with(tmp_path, "--", BAD, env=os.environ | {"LC_ALL": "C.UTF-8"})
    assert done.returncode == 127
    assert done.stderr.startswith("qmonctl: /\ufffdé: No such file or directory\n")


def test_what_a_daemon_says_cannot_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = {"id": 1, "error": {"class": "Forbidden", "message": "\x1b[2J"}}
    with peers(tmp_path / "s", (HELLO, json_bytes(refusal) + b"\n")):
        assert main(["--socket", str(tmp_path / "s"), "record", "--", "true"]) == 125
    assert capsys.readouterr().err == "qmonctl: \\x1b[2J\n"
