"""Completion in the shells themselves: Tab is pressed on a terminal, and the line is run."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from standin import answers, listening, process, standing_in

from qmond.ctl import main

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
BEGIN = {
    "bash": "PS1=; bind 'set enable-bracketed-paste off'; . {script}; "
    'qmonctl() {{ echo "<$*>"; }}',
    "zsh": "PS1=; unset zle_bracketed_paste; autoload -U compinit; compinit -D -u; . {script}; "
    'compdef _shtab_qmonctl qmonctl; qmonctl() {{ echo "<$*>" }}',
}
LINES = [
    ("tail --event READ,WRITE,SIGNAL_G", "tail --event READ,WRITE,SIGNAL_GENERATE"),
    ("tail --event REA", "tail --event READ"),
    ("tail --event EXEC,iden", "tail --event EXEC,identity"),
    ("tail -o sho", "tail -o short"),
    ("tail --not-event EXEC,SOCK", "tail --not-event EXEC,SOCKET"),
    ("tail --arch aarch64,mips64e", "tail --arch aarch64,mips64el"),
    ("tail --guest /opt/gu", "tail --guest /opt/guest-1"),
    ("tail --tree 471", "tail --tree 4711"),
    ("record --event EXEC,SOCK", "record --event EXEC,SOCKET"),
    ("record -- {folder}/comma", "record -- {folder}/command"),
    ("record -- cat {folder}/fi", "record -- cat {folder}/file"),
    ("events SOCK", "events SOCKET"),
    ("export --format perf", "export --format perfetto"),
    ("tai", "tail"),
]
PATIENCE = 20


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder with a daemon's socket, which a shell's helpers ask, and files."""
    for name in ("command", "file"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    guests = [process(4711, guest="/opt/guest-1"), process(8, guest="/opt/gu $(id)`id`")]
    monkeypatch.setenv("QMOND_SOCKET", str(tmp_path / "s"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    with standing_in(tmp_path / "s", answers(tmp_path) | {"ps": guests}):
        yield tmp_path


def script(shell: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", shell]) == 0
    path = folder / f"script.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


def typed(shell: str, begin: str, line: str) -> str:
    """Return what a shell does with a line on a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "dumb"
        os.execvp(SHELLS[shell][0], SHELLS[shell])  # noqa: S606 - it is the shell
    said = b""
    end = time.monotonic() + PATIENCE

    def until(mark: bytes) -> None:
        nonlocal said
        while mark not in said and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                said += os.read(terminal, 4096)

    os.write(terminal, f"{begin}; echo rea''dy\n".encode())
    until(b"ready")
    said = b""
    os.write(terminal, f"{line}\t".encode())
    time.sleep(0.1)
    os.write(terminal, b"\n")
    until(b">\r\n")
    os.close(terminal)
    os.waitpid(pid, 0)
    return said.decode().rpartition("<")[2].partition(">")[0].strip()


@pytest.mark.parametrize(("line", "completed"), LINES)
@pytest.mark.parametrize("shell", BEGIN)
def test_tab_completes(
    shell: str, line: str, completed: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    begin = BEGIN[shell].format(script=script(shell, place, capsys))
    found = typed(shell, begin, f"qmonctl {line.format(folder=place)}")
    assert found == completed.format(folder=place)


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
def test_fish_completes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script("fish", place, capsys)
    for line, completed in LINES:
        ask = f"source {path}; complete -C 'qmonctl {line.format(folder=place)}'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", ask], capture_output=True, text=True, check=True
        )
        words = [found.partition("\t")[0] for found in done.stdout.splitlines()]
        assert completed.format(folder=place).rpartition(" ")[2] in words
        assert done.stderr == ""


def test_words_that_a_shell_could_run_are_left_out(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "--words", "guests"]) == 0
    assert capsys.readouterr() == ("/opt/guest-1\n", "")
    assert main(["--socket", str(place / "none"), "completion", "--words", "pids"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_daemon_that_does_not_answer_delays_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(tmp_path / "s"):
        began = time.monotonic()
        assert main(["--socket", str(tmp_path / "s"), "completion", "--words", "guests"]) == 0
        assert time.monotonic() - began < 2
    assert capsys.readouterr() == ("", "")
