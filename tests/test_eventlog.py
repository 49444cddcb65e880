"""The log: whole lines, rotation, one writer."""

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from qmond.errors import InUseError, LogError
from qmond.eventlog import EventLog


def open_log(path: Path, size: int = 100, files: int = 16) -> EventLog:
    return EventLog(path, rotate_size=size, keep_files=files)


def content(path: Path) -> bytes:
    return b"".join(
        file.read_bytes() for file in [*sorted(path.glob("events-*.jsonl")), path / "events.jsonl"]
    )


def test_rotates_between_lines_and_loses_none(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    lines = [b'{"seq":%d}\n' % number for number in range(100)]
    for line in lines:
        log.write(line)
    log.close()
    assert content(tmp_path) == b"".join(lines)
    files = sorted(tmp_path.glob("events-*.jsonl"))
    assert len(files) == log.rotated > 5
    assert all(file.stat().st_size <= 100 and file.read_bytes().endswith(b"\n") for file in files)


def test_leaves_the_page_cache_to_others() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # a disk, not memory
        path = Path(name) / "events.jsonl"
        log = open_log(Path(name), size=32 << 20)
        for megabyte in range(62):  # a whole file, and 30 MB
            if megabyte == 52:
                with path.open("rb") as file:
                    os.fdatasync(file)  # what the disk has not is not given back
            log.write(b"x" * ((1 << 20) - 1) + b"\n")
        log.close()
        old, live = *Path(name).glob("events-*"), path
        fincore: list[str | Path] = ["fincore", "--bytes", "--noheadings", "--output", "RES"]
        done = subprocess.run([*fincore, old, live], check=True, capture_output=True)
    before, now = map(int, done.stdout.split())
    assert before == 0
    assert now <= 10 << 20


def test_keeps_the_newest_files(tmp_path: Path) -> None:
    log = open_log(tmp_path, files=2)
    for number in range(50):
        log.write(b"%03d " % number + b"x" * 60 + b"\n")
    log.close()
    kept = content(tmp_path).splitlines()
    assert [line[:3] for line in kept] == [b"047", b"048", b"049"]


def test_is_for_the_owner_and_its_group(tmp_path: Path) -> None:
    os.umask(0o022)
    log = open_log(tmp_path / "new")
    log.close()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "new" / "events.jsonl").stat().st_mode) == 0o640


def test_goes_on_behind_a_torn_line(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'{"seq":1}\n{"se')
    log = open_log(tmp_path)
    assert log.last_line() is None
    log.write(b'{"seq":2}\n')
    assert log.last_line() == {"seq": 2}
    log.close()
    assert (tmp_path / "events.jsonl").read_bytes() == b'{"seq":1}\n{"se\n{"seq":2}\n'


def test_has_one_writer(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    with pytest.raises(InUseError, match="another qmond writes this log"):
        open_log(tmp_path)
    for _ in range(20):  # the lock moves on to the new file
        log.write(b"x" * 60 + b"\n")
    with pytest.raises(InUseError):
        open_log(tmp_path)
    log.close()
    open_log(tmp_path).close()


def test_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "events.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LogError, match="events"):
        open_log(tmp_path)


def test_says_which_file_it_cannot_open(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LogError, match="file"):
        open_log(tmp_path / "file")
