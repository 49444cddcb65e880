"""qmonctl's words; what it does with a daemon the root tests show."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from peer import HELLO, peer

from qmond.ctl import main, ps, tree
from qmond.ctl.manual import file_page, page
from qmond.ctl.show.text import age, printable
from qmond.ctl.status import render


def test_no_daemon_is_told_in_a_line_with_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--socket", str(tmp_path / "none"), "status"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"qmonctl: {tmp_path}/none: No such file or directory\n  is the daemon")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "required: VERB"),
        (["fly"], "invalid choice: 'fly'"),
        (["tail", "-n", "-1"], "-n/--lines/--last: a number of lines is expected, not '-1'"),
        (["tail", "-n", "x"], "a number of lines is expected, not 'x'"),
        (["tail", "--pid", "x"], "a process ID is expected, not 'x'"),
        (["tail", "--follow=retry", "--fields", "buf"], "add seq to --fields"),
        (["ps", "--bogus"], "unrecognized arguments: --bogus"),
        (["log-level", "loud"], "invalid choice: 'loud'"),
        (["events", "nosuch"], "unknown: nosuch; there are the groups all"),
        (["query"], "SQL or --tables is required"),
        (["export", "--format", "perfetto", "--exact"], "--exact is for --format csv"),
        (["record"], "required: CMD"),
        (["record", "--bogus", "--", "true"], "unrecognized arguments: --bogus"),
        (["completion"], "bash, zsh or fish is required"),
        (["completion", "tcsh"], "invalid choice: 'tcsh'"),
    ],
)
def test_wrong_arguments_exit_with_2_and_the_usage_of_the_verb(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    known = arguments and arguments[0] != "fly"
    assert said.startswith(f"usage: qmonctl {arguments[0]} " if known else "usage: qmonctl [-h]")
    assert why in said


def test_what_the_daemon_finds_wrong_in_the_arguments_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = b'{"id":1,"error":{"class":"BadArgument","message":"where: column 6"}}\n'
    with peer(tmp_path / "s", HELLO, refusal), pytest.raises(SystemExit) as caught:
        main(["tail", "--socket", str(tmp_path / "s"), "--where", "fd =="])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: qmonctl tail ")
    assert said.endswith("qmonctl tail: error: where: column 6\n")


def test_an_answer_that_makes_no_sense_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with peer(tmp_path / "s", HELLO, b'{"id":1,"ok":{"\\u001b[2J":1}}\n'):
        assert main(["--socket", str(tmp_path / "s"), "status"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("qmonctl: internal fault: KeyError: 'ring' (status.py, line ")


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tail", "--help"])
    assert "qmonctl tail --event READ,WRITE" in capsys.readouterr().out


def test_status_is_a_table_with_the_four_columns() -> None:
    text = render(
        {
            "version": "1",
            "uptime": 61.2,
            "boot_id": "b",
            "probes": ["sys_enter", "sys_exit"],
            "ring": {"size": 8, "used": 0},
            "tracked": 2,
            "allocations": {"counted": 1, "static": 1},
            "left_behind": 2,
            "front": {"pid": 5, "starts": 3},
            "limits": ["cannot fly"],
            "advice": ["look at log.dir"],
            "clients": [{"pid": 7, "uid": 0, "sent": 3, "dropped": 1}],
            "log": {"path": "/x", "bytes": 9, "rotated": 0, "failing": True},
            "counters": {"READ": {"seen": 9, "written": 7, "lost": 2, "suppressed": 0}},
        }
    )
    assert "CANNOT BE WRITTEN" in text
    assert "2 processes; allocations: 1 counted, 1 static" in text
    assert "2 left behind" in text
    assert "started 3 times" in text
    assert "cannot fly" in text
    assert "look at log.dir" in text
    assert text.splitlines()[-2].split() == ["event", "seen", "written", "lost", "suppressed"]
    assert text.splitlines()[-1].split() == ["READ", "9", "7", "2", "0"]


def test_qmond_checks_a_config_and_tells_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qmond.__main__ import main as qmond  # it leaves parts of Python out of its process

    file = tmp_path / "qmon.yaml"
    file.write_text("fields: full\n")
    assert qmond(["--check", "--config", str(file)]) == 0
    file.write_text("fields: none\n")
    assert qmond(["--check", "--config", str(file)]) == 78
    assert f"{file}:1: fields:" in capsys.readouterr().err
    monkeypatch.setattr("qmond.__main__.DEFAULT_PATH", tmp_path / "none")
    monkeypatch.delenv("QMOND_CONFIG", raising=False)
    assert qmond(["--check"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/none: not there, so the defaults hold\n"
    with pytest.raises(SystemExit):
        qmond(["--version"])


def process(pid: int, start: float, *parents: tuple[int, str], **more: object) -> dict[str, object]:
    about = {
        "pid": pid,
        "ppid": parents[0][0],
        "uid": 0,
        "bin": "qemu-arm",
        "guest": f"./{pid}",
        "arch": "arm",
        "launch": "direct",
        "container": None,
        "start": start,
        "age": 61.0,
        "rate": 5,
        "events": 70,
        "allocations": "static",
        "parents": [{"pid": pid, "comm": comm} for pid, comm in parents],
    }
    return about | more


BASH = (50, "bash"), (1, "init")
FAMILY = [
    process(102, 3.0, (101, "qemu-arm"), (100, "qemu-arm"), *BASH, arch=None),
    process(100, 1.0, *BASH, guest="./\x1b[31mred"),
    process(101, 2.0, (100, "qemu-arm"), *BASH),
    process(200, 4.0, *BASH, container="0123456789abcdef"),
]


def test_ps_is_a_table_by_age() -> None:
    head, *rows = ps.render(FAMILY).splitlines()
    assert head.split()[:4] == ["PID", "PPID", "UID", "ARCH"]
    assert rows[0].endswith("direct  1m01s     5      70  static  ./\\x1b[31mred")
    assert [row.split()[0] for row in rows] == ["100", "101", "102", "200"]
    assert rows[2].split()[3] == "native"
    assert rows[3].endswith("./200 [0123456789ab]")
    assert ps.render([]).split()[0] == "PID"


def test_tree_draws_who_started_whom() -> None:
    assert tree.render(tree.grow(FAMILY)).splitlines() == [
        "[bash] 50",
        "├─ ./\\x1b[31mred  100  arm  direct  1m01s  5/s",
        "│  └─ ./101  101  arm  direct  1m01s  5/s",
        "│     └─ ./102  102  native  direct  1m01s  5/s",
        "└─ ./200 [0123456789ab]  200  arm  direct  1m01s  5/s",
    ]


def test_tree_is_not_fooled_by_an_id_that_is_used_again() -> None:
    later = process(50, 9.0, (100, "qemu-arm"), *BASH)
    roots = tree.grow([process(100, 1.0, *BASH), later])
    assert [root["pid"] for root in roots] == [100]
    assert [child["pid"] for child in roots[0]["children"]] == [50]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0s"), (61, "1m01s"), (7260, "2h01m"), (90000, "1d01h")]
)
def test_age(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_nothing_that_a_guest_chooses_drives_a_terminal() -> None:
    assert printable("a\x1b]0;x\x07\n\u202eb\x9b é") == r"a\x1b]0;x\x07\n\u202eb\x9b é"


def test_events_need_no_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events"]) == 0
    assert re.search(r"EXIT +process +a monitored process ended", capsys.readouterr().out)
    assert main(["events", "exit"]) == 0
    assert "signal" in capsys.readouterr().out
    assert main(["events", "loss", "exit"]) == 0
    keys = re.findall(r"^([A-Z]+): ", capsys.readouterr().out, re.MULTILINE)
    assert keys == ["EXIT", "LOST", "SUPPRESSED", "DROPPED", "GAP"]


@pytest.mark.parametrize("name", ["qmonctl.1", "qmon.yaml.5"])
def test_the_man_pages_are_of_what_is_there(name: str) -> None:
    root = Path(__file__).parents[2]
    checked = root / "docs/man" / name
    made = page() if name == "qmonctl.1" else file_page((root / "etc/qmon.yaml").read_text())
    assert checked.read_text() == made, "make generate"
    assert (".SS record" if name == "qmonctl.1" else ".B log.keep.bytes: 4G") in made
    if groff := shutil.which("groff"):
        done = subprocess.run(
            [groff, "-man", "-Tutf8", "-ww", "-z", checked], capture_output=True, check=False
        )
        assert done.stderr == b""
