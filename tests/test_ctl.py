"""qmonctl's words; what it does with a daemon the root tests show."""

from pathlib import Path

import pytest

from qmond.__main__ import main as qmond
from qmond.ctl import main
from qmond.ctl.status import render


def test_no_daemon_is_told_in_a_line_with_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--socket", str(tmp_path / "none"), "status"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"qmonctl: {tmp_path}/none: No such file or directory\n  is the daemon")


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["tail", "-n", "-1"], ["tail", "-n", "x"], ["tail", "--pid", "x"]]
)
def test_wrong_arguments_exit_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: qmonctl" in capsys.readouterr().err


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
            "clients": [{"pid": 7, "uid": 0, "sent": 3, "dropped": 1}],
            "log": {"path": "/x", "bytes": 9, "rotated": 0, "failing": True},
            "counters": {"READ": {"seen": 9, "written": 7, "lost": 2, "suppressed": 0}},
        }
    )
    assert "CANNOT BE WRITTEN" in text
    assert text.splitlines()[-2].split() == ["event", "seen", "written", "lost", "suppressed"]
    assert text.splitlines()[-1].split() == ["READ", "9", "7", "2", "0"]


def test_qmond_checks_a_config_and_tells_its_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "qmon.yaml"
    file.write_text("fields: full\n")
    assert qmond(["--check", "--config", str(file)]) == 0
    file.write_text("fields: none\n")
    assert qmond(["--check", "--config", str(file)]) == 78
    assert f"{file}:1: fields:" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        qmond(["--version"])
