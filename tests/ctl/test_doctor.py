"""The checks, on hosts that are made up."""

import json
import time
from pathlib import Path

import pytest
from peer import HELLO, peer

from qmond.ctl import main
from qmond.ctl.doctor import Finding, check_host

GOOD = {
    "proc/sys/kernel/osrelease": "6.12.5-amd64\n",
    "sys/kernel/btf/vmlinux": "x",
    "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
    "proc/sys/fs/binfmt_misc/qemu-arm": "enabled\ninterpreter /usr/bin/qemu-arm-static\n",
    "usr/bin/qemu-arm-static": "",
    "usr/bin/qemu-system-arm": "",
}


def look(root: Path, **changed: str | None) -> dict[str, Finding]:
    """Check a good host with some files changed, by the end of their paths, or missing."""
    for path, good in GOOD.items():
        text = changed.get(Path(path).name.replace("-", "_"), good)
        if text is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
    return {finding.name: finding for finding in check_host(root)}


def test_a_good_host(tmp_path: Path) -> None:
    found = look(tmp_path)
    states = {name: finding.state for name, finding in found.items()}
    assert states == dict.fromkeys(("kernel", "btf", "lockdown", "binfmt_misc", "qemu-user"), "ok")
    assert found["qemu-user"].found.startswith("1 in")


@pytest.mark.parametrize(
    ("changed", "name", "state"),
    [
        ({"osrelease": "5.10.0-8-amd64"}, "kernel", "warn"),
        ({"osrelease": "strange"}, "kernel", "warn"),
        ({"osrelease": None}, "kernel", "warn"),
        ({"vmlinux": None}, "btf", "fail"),
        ({"lockdown": "none integrity [confidentiality]"}, "lockdown", "fail"),
        ({"lockdown": None}, "lockdown", "ok"),
        ({"qemu_arm": "disabled\n"}, "binfmt_misc", "warn"),
        ({"qemu_arm": None}, "binfmt_misc", "warn"),
        ({"qemu_arm_static": None}, "qemu-user", "warn"),
    ],
)
def test_what_is_missing_is_told(
    tmp_path: Path, changed: dict[str, str | None], name: str, state: str
) -> None:
    assert look(tmp_path, **changed)[name].state == state


def test_no_daemon_is_a_failure_with_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--socket", str(tmp_path / "none"), "doctor", "--json"]) == 1
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["socket"]["state"] == "fail"
    assert "is the daemon running?" in found["socket"]["advice"]
    assert found["bcc"]["state"] == "ok"
    assert found["disk"]["found"].endswith("for /var/log/qmond, the default of log.dir")
    assert main(["--socket", str(tmp_path / "none"), "doctor"]) == 1
    assert "fail  socket" in capsys.readouterr().out


def test_the_disk_is_the_one_that_the_daemon_writes_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = {"path": str(tmp_path / "log/events.jsonl"), "failing": True}
    status = {"limits": ["cannot fly"], "advice": ["raise ring.size"], "log": log}
    answer = json.dumps({"id": 1, "ok": status}).encode() + b"\n"
    with peer(tmp_path / "s", HELLO, answer):
        main(["--socket", str(tmp_path / "s"), "doctor", "--json"])
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["socket"]["state"] == "ok"
    assert found["disk"]["found"].endswith(f" MB free for {tmp_path}/log")
    assert (found["limit"]["found"], found["losses"]["found"]) == ("cannot fly", "raise ring.size")
    assert found["log"]["state"] == "fail"


def test_what_lies_in_the_current_directory_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "importlib.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    main(["--socket", str(tmp_path / "none"), "doctor"])
    assert "bcc" in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()


def test_a_config_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "qmond"
    program.write_text("#!/bin/sh\necho /x.yaml: not there, so the defaults hold\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    main(["--socket", str(tmp_path / "none"), "doctor", "--json"])
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["config"]["state"] == "ok"
    assert found["config"]["found"] == "/x.yaml: not there, so the defaults hold"


def test_programs_that_hang_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("qmond", "systemctl"):
        (tmp_path / name).write_text("#!/bin/sh\nsleep 6\n:\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    began = time.monotonic()
    main(["--socket", str(tmp_path / "none"), "doctor", "--json"])
    assert time.monotonic() - began < 5
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["config"]["state"] == "warn"
    assert found["config"]["found"].endswith("qmond takes too long")
