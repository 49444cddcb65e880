"""The words of a command line, as `qmonctl tail` takes them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from peer import hello, peers

from qmond.ctl import main
from qmond.ctl.commandline import utf8

OK = b'{"id":1,"ok":{}}\n'
END = b'{"id":1,"end":{"reason":"complete"}}\n'


@pytest.mark.parametrize("option", ["--guest", "--where", "--event", "--arch", "--fields"])
def test_what_is_not_utf_8_is_refused_before_it_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with peers(tmp_path / "s") as asked, pytest.raises(SystemExit) as caught:
        main(["--socket", str(tmp_path / "s"), "tail", option, os.fsdecode(b"a\xff")])
    assert (caught.value.code, asked) == (2, [])
    assert capsys.readouterr().err.endswith(f"argument {option}: not valid UTF-8\n")


def test_words_are_utf_8_in_any_locale(tmp_path: Path) -> None:
    assert utf8("/opt/ü", "a path") == "/opt/ü"
    words = ["--guest", "*/ü", "--where", 'buf == "€"']
    environment = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    with peers(tmp_path / "s", (hello(4), OK + END)) as asked:
        subprocess.run(
            [sys.executable, "-c", "import sys; from qmond.ctl import main; sys.exit(main())",
             "--socket", str(tmp_path / "s"), "tail", "--no-follow", *words],
            env=os.environ | environment, check=True, timeout=30,
        )  # fmt: skip
    (request,) = asked
    assert (request["args"]["guest"], request["args"]["where"]) == ("*/ü", 'buf == "€"')


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tail", "--pid", "abc"], "argument --pid: a process ID is expected, not 'abc'"),
        (["tail", "--tree", ""], "argument --tree: a process ID is expected, not ''"),
        (["tail", "--event", ""], "argument --event: an empty name"),
        (["tail", "--event", "READ,,WRITE"], "argument --event: an empty name"),
        (["tail", "--not-event", ""], "argument --not-event: an empty name"),
        (["tail", "--arch", "arm,"], "argument --arch: an empty name"),
        (["tail", "--fields", ""], "argument --fields: an empty name"),
        (["tail", "--no-follow", "--follow"],
         "argument --follow: not allowed with argument --no-follow"),
        (["tail", "-n", "100001"],
         "argument -n/--lines/--last: at most 100,000 lines; --since has no limit"),
        (["tail", "-o", "strace", "--fields", "pid,buf"],
         "-o strace needs the name of each event: add event to --fields"),
        (["--socket", "", "ps"], "argument --socket: a path is expected"),
        (["ps", "--socket", ""], "argument --socket: a path is expected"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_told_with_what_is_expected(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f": error: {told}\n")
