"""Every verb of qmonctl, whatever happens around it: the status is right, and no trace is shown."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standin import LINE, answers, listening, process, standing_in

from qmond.ctl.completion import verb_parsers
from qmond.ctl.verbs import parser

QMONCTL = Path(sys.executable).with_name("qmonctl")
LOG = "LOG"
ARGUMENTS: dict[str, list[str]] = {
    "tail": ["--last", "3", "--no-follow"],
    "ps": [],
    "tree": [],
    "top": [],
    "status": [],
    "events": [],
    "config": [],
    "log-level": [],
    "rotate": [],
    "reload": [],
    "record": ["-o", "OUT", "--", "sh", "-c", "exit 3"],
    "export": ["--format", "csv", LOG],
    "query": ["SELECT filename FROM events", LOG],
    "doctor": [],
    "completion": ["bash"],
}
"""What each verb is run with."""
STATUS = {"top": 1, "record": 3}
"""The statuses that are not 0: top needs a terminal, record's is that of the command."""
SILENT = {"top", "record", "reload"}
"""The verbs that print nothing to standard output here."""
ENDED = {130, -signal.SIGINT}
"""The statuses after Ctrl-C, of which a shell makes 130."""
WITHOUT_DAEMON = {"events", "export", "query", "completion"}
VERBS = sorted(verb_parsers(parser()))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder with a daemon's socket and a log."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "events.jsonl").write_text("".join(json.dumps(LINE) + "\n" for _ in range(3)))
    with standing_in(folder / "s", answers(folder / "events.jsonl")):
        yield folder


@pytest.fixture(autouse=True)
def as_for_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what a test machine may set: without a buffer, the last output has no errors."""
    for name in ("PYTHONUNBUFFERED", "PYTHONIOENCODING", "QMOND_SOCKET"):
        monkeypatch.delenv(name, raising=False)


class Done:
    def __init__(self, status: int, out: str, said: str) -> None:
        self.status, self.out, self.said = status, out, said
        for text in (out, said):
            assert "Traceback" not in text, text
            assert "Exception ignored" not in text, text
            assert "internal fault" not in text, text


def command(verb: str, folder: Path, path: Path | None = None) -> list[str]:
    """Return a command line of qmonctl; the log is in a folder, the socket there or elsewhere."""
    output = folder / f"out-{time.monotonic_ns()}"
    named = {LOG: str(folder / "events.jsonl"), "OUT": str(output)}
    words = [named.get(word, word) for word in ARGUMENTS[verb]]
    return [str(QMONCTL), "--socket", str(path or folder / "s"), verb, *words]


def run(words: list[str], tail: str = "", **environment: str) -> Done:
    """Run a command in a shell, with what is to be appended to its line."""
    done = subprocess.run(
        ["bash", "-c", f'"$@" {tail}', "bash", *words],
        env=os.environ | environment,
        capture_output=True,
        timeout=20,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode())


def status_of(verb: str) -> int:
    return STATUS.get(verb, 0)


def test_every_verb_is_here() -> None:
    assert sorted(ARGUMENTS) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_it_works(verb: str, place: Path) -> None:
    done = run(command(verb, place))
    assert done.status in {status_of(verb)} | ({1} if verb == "doctor" else set()), done.said
    assert (done.out == "") == (verb in SILENT)


@pytest.mark.parametrize(
    ("tail", "why"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
)
@pytest.mark.parametrize("verb", VERBS)
def test_output_that_cannot_be_written_is_an_error(
    verb: str, tail: str, why: str, place: Path
) -> None:
    done = run(command(verb, place), tail)
    if verb in SILENT:
        assert done.status == status_of(verb)
    else:
        assert done.status == 1
        assert done.said.endswith(f"qmonctl: standard output: {why}\n")


def test_help_that_cannot_be_written_is_an_error() -> None:
    for words in (["--help"], ["tail", "--help"], ["--version"]):
        assert run([str(QMONCTL), *words], ">/dev/full").status == 1


@pytest.mark.parametrize("verb", VERBS)
def test_a_pipe_whose_reader_has_ended_is_none(verb: str, place: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command(verb, place), stdout=writer, stderr=subprocess.PIPE, check=False, timeout=20
    )
    os.close(writer)
    said = done.stderr.decode()
    assert done.returncode in {status_of(verb)} | ({1} if verb == "doctor" else set()), said
    assert verb in {"top", "record"} or said == ""


@pytest.mark.parametrize("tail", ["2>&-", "2>/dev/full", "<&-", "<&- 2>&-", "2>&1 >/dev/null | :"])
@pytest.mark.parametrize("verb", VERBS)
def test_messages_and_input_that_are_missing_change_no_status(
    verb: str, tail: str, place: Path
) -> None:
    status = run(command(verb, place)).status
    if tail.endswith(":"):
        tail += "; exit ${PIPESTATUS[0]}"
    assert run(command(verb, place), tail).status == status


def test_nothing_gets_the_number_of_a_missing_stream(place: Path, tmp_path: Path) -> None:
    """Or else a message is written to the socket."""
    known = answers(place) | {"reload": {"restart": ["ring.size"]}}
    with standing_in(tmp_path / "s", known):
        words = command("reload", place, tmp_path / "s")
        for tail in ("2>&-", "0<&- 1>&- 2>&-"):
            assert run(words, tail).status == 0


def test_input_that_is_missing_is_an_error() -> None:
    done = run([str(QMONCTL), "export", "--format", "csv", "-"], "<&-")
    assert (done.status, done.said) == (1, "qmonctl: -: Bad file descriptor\n")


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=lambda environment: ",".join(f"{k}={v}" for k, v in environment.items()),
)
@pytest.mark.parametrize("verb", VERBS)
def test_characters_that_the_terminal_lacks_are_escaped(
    verb: str, environment: dict[str, str], place: Path
) -> None:
    done = run(command(verb, place), **environment)
    assert done.status == run(command(verb, place)).status
    if verb in {"ps", "tree", "query", "rotate"} and environment != {"LC_ALL": "C"}:
        assert r"\u4e16" in done.out or verb == "rotate"


@pytest.mark.parametrize("words", ["ps", "tree", "status", "doctor", "events", "query"])
def test_json_is_utf_8_whatever_the_terminal_has(words: str, place: Path) -> None:
    line = [*command(words, place), "--json"]
    done = subprocess.run(
        line, env=os.environ | {"PYTHONIOENCODING": "latin-1"}, capture_output=True, check=False
    )
    for text in [done.stdout] if words != "query" else done.stdout.splitlines():
        json.loads(text.decode())


# ---- the daemon ------------------------------------------------------------------------------


def garbage(client: socket.socket) -> None:
    client.sendall(b"\xff\x1b[2J{}\n" * 20)


def greeting_alone(client: socket.socket) -> None:
    client.sendall(b'{"qmond":{"protocol":1,"version":"9"}}\n{"id":1,"o')


def nothing(_client: socket.socket) -> None:
    pass


@contextlib.contextmanager
def strange(path: Path, *, behave: Any, stays: bool) -> Iterator[None]:
    """Serve clients with a daemon that behaves in a strange way, and then hangs up, or stays."""
    with listening(path) as listener:

        def serve() -> None:
            clients = []
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    clients.append(client)
                    with contextlib.suppress(ConnectionError):
                        behave(client)
                    if not stays:
                        client.close()
            for client in clients:
                client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def failures(place: Path, path: Path) -> dict[str, Done]:
    """Run all verbs that need the daemon at once; returns what is left of each."""
    verbs = [verb for verb in VERBS if verb not in WITHOUT_DAEMON | {"top"}]
    started = {
        verb: subprocess.Popen(
            command(verb, place, path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for verb in verbs
    }
    found = {}
    for verb, running in started.items():
        out, said = running.communicate(timeout=20)
        found[verb] = Done(running.returncode, out, said)
        assert found[verb].status == (125 if verb == "record" else 1)
    return found


@pytest.mark.parametrize("behave", [garbage, greeting_alone, nothing])
def test_a_daemon_that_makes_no_sense_is_told(behave: Any, place: Path, tmp_path: Path) -> None:
    with strange(tmp_path / "s", behave=behave, stays=False):
        for verb, done in failures(place, tmp_path / "s").items():
            assert str(tmp_path / "s") in done.said + done.out, verb


def test_no_daemon_is_told(place: Path, tmp_path: Path) -> None:
    for verb, done in failures(place, tmp_path / "s").items():
        assert "No such file or directory" in done.said + done.out, verb
    (tmp_path / "s").write_text("no socket")
    for verb, done in failures(place, tmp_path / "s").items():
        assert "not a socket" in done.said + done.out, verb


@pytest.mark.parametrize("behave", [nothing, greeting_alone])
def test_a_daemon_that_does_not_answer_is_told_in_time(
    behave: Any, place: Path, tmp_path: Path
) -> None:
    with strange(tmp_path / "s", behave=behave, stays=True):
        began = time.monotonic()
        for verb, done in failures(place, tmp_path / "s").items():
            assert "the daemon did not answer within" in done.said + done.out, verb
        assert time.monotonic() - began < 5 + 4  # ten at once, on a busy machine


def test_a_tail_waits_as_long_as_it_takes(place: Path) -> None:
    words = [str(QMONCTL), "--socket", str(place / "s"), "tail"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tail:
        with pytest.raises(subprocess.TimeoutExpired):
            tail.wait(6.5)
        tail.send_signal(signal.SIGINT)
        out, said = tail.communicate(timeout=10)
        assert (tail.returncode in ENDED, len(out.splitlines()), said) == (True, 3, b"")


def test_a_tail_ends_with_its_reader(place: Path) -> None:
    """Also where no line comes that it could not write."""
    words = [str(QMONCTL), "--socket", str(place / "s"), "tail"]
    done = run(words, "| head -n 1; exit ${PIPESTATUS[0]}")
    assert (done.status, len(done.out.splitlines()), done.said) == (0, 1, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_is_not_permitted_is_told(tmp_path: Path) -> None:
    tmp_path.parent.chmod(0o755)
    tmp_path.chmod(0o755)
    (tmp_path / "events.jsonl").write_text("")
    (tmp_path / "events.jsonl").chmod(0o600)
    with listening(tmp_path / "s"):
        (tmp_path / "s").chmod(0o600)
        for verb in VERBS:
            done = subprocess.run(
                command(verb, tmp_path), user=65534, group=65534, extra_groups=[],
                capture_output=True, text=True, check=False, timeout=20, cwd="/",
            )  # fmt: skip
            if verb in {"events", "completion", "top"}:
                continue
            found = Done(done.returncode, done.stdout, done.stderr)
            assert found.status == (125 if verb == "record" else 1)
            assert "Permission denied" in found.said + found.out, verb


def test_thousands_of_processes_with_long_names(place: Path, tmp_path: Path) -> None:
    """The answer has more than a mebibyte."""
    many = [process(pid, 1, f"/opt/{'x' * 600}/{pid}") for pid in range(2, 2002)]
    with standing_in(tmp_path / "s", answers(place) | {"ps": many}):
        for verb, head in (("ps", 1), ("tree", 1)):
            words = command(verb, place, tmp_path / "s")
            done = run(words)
            assert (done.status, len(done.out.splitlines())) == (0, 2000 + head)
            found = json.loads(run([*words, "--json"]).out)
            assert len(found if verb == "ps" else found[0]["children"]) == 2000


def test_a_tree_of_any_depth(place: Path, tmp_path: Path) -> None:
    deep = [process(pid, pid - 1) for pid in range(2, 2002)]
    with standing_in(tmp_path / "s", answers(place) | {"ps": deep}):
        words = command("tree", place, tmp_path / "s")
        assert len(run(words).out.splitlines()) == 2001
        done = run([*words, "--json"])
        assert done.status == 1
        assert done.said.startswith("qmonctl: the tree is too deep for JSON\n")


TELLING_WHEN_IT_BEGINS = """
from qmond.ctl import main
real = __builtins__.__import__
def told(name, *rest, **named):
    if name == "qmond.ctl.interrupts":
        print(end="x", flush=True)
    return real(name, *rest, **named)
__builtins__.__import__ = told
raise SystemExit(main())
"""


# ---- Ctrl-C ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "top"])
def test_ctrl_c_at_any_time_leaves_no_trace(verb: str, place: Path) -> None:
    """From its own first line on; the start of Python before that is not in its hands."""
    for wait in range(0, 240, 30):
        with subprocess.Popen(
            [sys.executable, "-c", TELLING_WHEN_IT_BEGINS, *command(verb, place)[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as asking:
            assert asking.stdout is not None
            asking.stdout.read(1)
            time.sleep(wait / 1000)
            asking.send_signal(signal.SIGINT)
            out, said = asking.communicate(timeout=20)
            found = Done(asking.returncode, out.decode(), said.decode())
            assert found.status in ENDED | {status_of(verb)} | ({1} if verb == "doctor" else set())
            if found.status in ENDED and verb != "record":  # it tells of the command that it ended
                assert found.said == ""


def test_ctrl_c_in_the_middle_of_output(place: Path, tmp_path: Path) -> None:
    known = answers(place) | {"ps": [process(pid, 1, "x" * 1000) for pid in range(2, 2000)]}
    with standing_in(tmp_path / "s", known, lines=5000):
        for verb in ("ps", "tree", "tail"):
            words = command(verb, place, tmp_path / "s")
            with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
                assert asking.stdout is not None
                assert asking.stdout.read(1)
                asking.send_signal(signal.SIGINT)
                assert asking.wait(10) in ENDED
                assert asking.stderr is not None
                assert asking.stderr.read() == b""
