"""Log shippers: with the configurations of packaging/shippers each line arrives, once, as it is.

Real shippers follow the log of a real daemon through rotations, and both are restarted on the way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import Build, StartQmond
from harness import PATIENCE, Qmond, wait_until
from stock import ORDINARY

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "packaging/shippers"
UNPACKED = Path(sys.prefix) / "shippers"
BUSYBOX = Path(sys.prefix) / "guests/busybox-arm64"
LINES = 200_000
ROTATIONS = 10
LONGEST = 16 << 10
"""Bytes: the most that `capture.bytes` can be."""
HOSTILE = (
    b'","time":"1970-01-01T00:00:00.000000Z","seq":0}\n'
    b"<0>1 - - - - - - $!time %msg% %$.time% ${TIME} `id` $(id) {{ message }}\r\n\x00\x1b[2J\xff\\"
)


@dataclass
class Shipper:
    """A shipper with a work directory of its own, and what it wrote.

    `live` says whether it reads the live file, too, or complete ones alone.
    """

    command: Sequence[str | Path]
    folder: Path
    live: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def shipped(self) -> Path:
        return self.folder / "shipped"

    def start(self) -> None:
        with (self.folder / "said").open("ab") as said:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=os.environ | self.environment,
                stdout=said,
                stderr=said,
            )

    def stop(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.said()
        self.process = None

    def said(self) -> str:
        return (self.folder / "said").read_text(errors="replace")

    def messages(self) -> list[tuple[str, bytes]]:
        """Return what arrived: the moment and the text of each message."""
        messages = []
        for line in self.shipped.read_bytes().splitlines(keepends=True):
            header, mark, text = line.partition(b" qmond - - - ")
            assert mark, line[:200]
            assert text.endswith(b"\n")
            priority, moment, _host = header.split(b" ")
            assert priority == b"<134>1"
            messages.append((moment.decode(), text[:-1]))
        return messages


def adapted(name: str, log: Path, folder: Path) -> Path:
    """Return a configuration as it is shipped, but for its paths."""
    text = (CONFIGS / name).read_text()
    for there, here in {
        "/var/log/qmond-shipped.log": folder / "shipped",
        "/var/log/qmond": log,
    }.items():
        assert there in text
        text = text.replace(there, str(here))
    assert "/var/" not in text
    (folder / name).write_text(text)
    return folder / name


def rsyslog(log: Path, folder: Path) -> Shipper:
    config = adapted("rsyslog.conf", log, folder)
    (folder / "work").mkdir()
    main = folder / "main.conf"
    main.write_text(f'global(workDirectory="{folder}/work")\ninclude(file="{config}")\n')
    modules = next(UNPACKED.glob("usr/lib/*/rsyslog"))
    options: list[str | Path] = ["-n", "-f", main, "-i", folder / "pid", "-M", modules]
    return Shipper([UNPACKED / "usr/sbin/rsyslogd", *options], folder)


def syslog_ng(log: Path, folder: Path) -> Shipper:
    config = adapted("syslog-ng.conf", log, folder)
    main = folder / "main.conf"
    main.write_text(f'@version: 3.38\n@include "{config}"\n')
    libraries = UNPACKED / "usr/lib/syslog-ng"
    options: list[str | Path] = ["-F", "--no-caps", "-f", main, "-R", folder / "persist"]
    options += ["-p", folder / "pid", "-c", folder / "control"]
    options += [f"--module-path={libraries / '3.38'}"]
    environment = {"LD_LIBRARY_PATH": str(libraries)}
    command = [UNPACKED / "usr/sbin/syslog-ng", *options]
    return Shipper(command, folder, live=False, environment=environment)


SHIPPERS = {"rsyslog": rsyslog, "syslog-ng": syslog_ng}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shipper"
    made.mkdir()
    return made


@contextlib.contextmanager
def ended(shipper: Shipper) -> Iterator[None]:
    """Make sure that a shipper is gone."""
    try:
        yield
    finally:
        if shipper.process:
            shipper.process.kill()
            shipper.process.wait()


def write(content: bytes, file: Path) -> None:
    """Have a guest read content, and write it, in one call each."""
    file.write_bytes(content)
    command: list[str | Path] = [
        "qemu-aarch64-static",
        BUSYBOX,
        "dd",
        f"if={file}",
        "of=/dev/null",
        "bs=16384",
    ]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=60)


def lines_of(log: Path, *, live: bool) -> list[list[bytes]]:
    """Return the lines of each of the log's files, the oldest first."""
    files = sorted(log.glob("events-*.jsonl"))
    if live:
        files.append(log / "events.jsonl")
    return [file.read_bytes().splitlines() for file in files]


def wait_for(shipper: Shipper, log: Path) -> None:
    """Wait until as many lines arrived as there are."""
    count = sum(map(len, lines_of(log, live=shipper.live)))

    def arrived() -> bool:
        time.sleep(0.2)
        assert shipper.process
        assert shipper.process.poll() is None, shipper.said()
        return shipper.shipped.read_bytes().count(b"\n") >= count

    wait_until(arrived)


@pytest.mark.parametrize("name", SHIPPERS)
def test_each_line_arrives_once_as_it_is(
    name: str, qmond: StartQmond, build: Build, tmp_path: Path, folder: Path
) -> None:
    config: dict[str, Any] = {
        "capture": {"bytes": "16K"},
        "ring": ORDINARY,
        "log": {"rotate": {"size": "3M"}},
    }
    storm: list[str | Path] = ["qemu-aarch64-static", build("count", "aarch64"), str(LINES // 4)]
    daemon = qmond(**config)
    shipper = SHIPPERS[name](daemon.log, folder)
    with ended(shipper):
        shipper.start()
        subprocess.run(storm, check=True, timeout=60)
        # the longest line there can be: each byte an escape of six, and all of it in base64, too
        write(b"\x01" * (LONGEST - 1) + b"\xff", tmp_path / "longest")
        with subprocess.Popen(storm) as guest:
            time.sleep(0.05)
            shipper.stop()
            assert guest.wait(PATIENCE) == 0
        write(HOSTILE, tmp_path / "hostile")
        daemon.stop()
        daemon = qmond(**config)
        shipper.start()
        with subprocess.Popen(storm) as guest:
            assert guest.wait(PATIENCE) == 0
        daemon.stop()
        daemon = qmond(**config)
        subprocess.run(storm, check=True, timeout=60)
        wait_until(lambda: daemon.status()["tracked"] == 0)
        assert daemon.ctl("rotate").returncode == 0
        daemon.stop()
        wait_for(shipper, daemon.log)
        time.sleep(1.5)  # a line that comes twice would come now
        shipper.stop()
    check(shipper, daemon)


def check(shipper: Shipper, daemon: Qmond) -> None:
    """Hold what arrived against the log."""
    files = lines_of(daemon.log, live=shipper.live)
    assert len(files) > ROTATIONS
    lines = [line for file in files for line in file]
    assert len(lines) >= LINES
    assert len(set(lines)) == len(lines)
    events = [json.loads(line) for line in lines]
    assert [event["seq"] for event in events] == list(range(1, len(lines) + 1))
    for content in (b"\x01" * (LONGEST - 1) + b"\xff", HOSTILE):
        assert sum(e.get("buf") == content.decode(errors="replace") for e in events) == 2

    messages = shipper.messages()
    arrived = Counter(text for _, text in messages)
    assert [line for line in lines if arrived[line] != 1] == []
    assert len(messages) == len(lines)
    assert max(map(len, arrived)) == max(map(len, lines)) > 6 * LONGEST
    at = {text: at for at, (_, text) in enumerate(messages)}
    for file in files:
        places = [at[line] for line in file]
        assert places == sorted(places)
    for moment, text in messages:
        assert datetime.fromisoformat(moment) == datetime.fromisoformat(json.loads(text)["time"])
