"""The log: whole lines, rotation, one writer, and what becomes of it in trouble."""

import errno
import gzip
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from qmond.config.keys import Keep, Log, Rotate
from qmond.errors import InUseError, LogError
from qmond.log import compress
from qmond.log.files import kept_files, new_name
from qmond.log.history import History
from qmond.log.keeper import LogKeeper
from qmond.log.retention import room, surplus
from qmond.log.writer import EventLog


def open_log(path: Path, size: int = 100, files: int = 16, **more: object) -> EventLog:
    settings = {"min_free": 0, "compress": "none"} | more
    log = EventLog(
        Log(dir=path, rotate=Rotate(size=size), keep=Keep(files=files), **settings)  # type: ignore[arg-type]
    )
    log.recover()
    settle(log)
    return log


def settle(log: EventLog) -> None:
    """Wait until what is done aside is done."""
    while log.retention._round is None or not log.retention._round.done():
        time.sleep(0.005)
    log.retention._round.result()


def row(number: int) -> bytes:
    return b'{"time":"2026-11-23T08:00:00.000000Z","seq":%d}\n' % number


def rows(path: Path) -> list[bytes]:
    with History(path) as history:
        return list(history.lines())


def content(path: Path) -> bytes:
    return b"".join(
        file.read_bytes() for file in [*sorted(path.glob("events-*.jsonl")), path / "events.jsonl"]
    )


class Disk:
    """The real one; a test plays where it fails."""

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


def test_rotates_between_lines_and_loses_none(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    lines = [b'{"seq":%d}\n' % number for number in range(100)]
    for line in lines:
        log.write(line)
    log.close()
    assert content(tmp_path) == b"".join(lines)
    files = sorted(tmp_path.glob("events-*.jsonl"))
    assert len(files) > 5
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
    settle(log)
    log.check()
    settle(log)
    log.close()
    kept = content(tmp_path).splitlines()
    assert [line[:3] for line in kept] == [b"047", b"048", b"049"]


def test_is_for_the_owner_and_its_group(tmp_path: Path) -> None:
    os.umask(0o022)
    log = open_log(tmp_path / "new")
    log.close()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "new" / "events.jsonl").stat().st_mode) == 0o640


@pytest.mark.parametrize("rest", [b"", b"\0" * 5000, b"\xff{garbage\n", b"[1]\n\0\0"])
def test_a_torn_end_is_set_aside_wherever_it_was_torn(tmp_path: Path, rest: bytes) -> None:
    whole, last = row(1) + row(2), row(3)
    for cut in range(len(last) + 1):
        path = tmp_path / str(cut)
        path.mkdir()
        (path / "events.jsonl").write_bytes(whole + last[:cut] + rest)
        log = open_log(path, size=10_000)
        known = 3 if cut == len(last) or (cut == len(last) - 1 and not rest) else 2
        assert log.last_line()["seq"] == known
        log.write(row(known + 1))
        log.close()
        assert rows(path) == [row(number) for number in range(1, known + 2)]
        (*torn,) = path.glob("events-*.torn")
        kept = b"".join(file.read_bytes() for file in torn)
        assert b"".join([*rows(path)[:known], kept]).rstrip(b"\n") == (
            whole + last[:cut] + rest
        ).rstrip(b"\n")


def test_a_log_that_is_all_zeros_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(bytes(3 << 20))
    log = open_log(tmp_path)
    log.write(row(1))
    log.close()
    assert rows(tmp_path) == [row(1)]
    (torn,) = tmp_path.glob("*.torn")
    assert torn.stat().st_size == 3 << 20


def test_rotates_by_age_though_it_was_begun_before(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(row(1))
    log = EventLog(Log(dir=tmp_path, rotate=Rotate(age=3600), compress="none"))
    log.recover()
    log.check()
    assert len(list(tmp_path.glob("events-*.jsonl"))) == 1, "its line is of long ago"
    log.write(row(2).replace(b"2026", b"9999"))
    log.check()
    log.check()
    log.close()
    assert rows(tmp_path)[0] == row(1)
    assert len(list(tmp_path.glob("events-*.jsonl"))) == 1


def test_names_go_on_though_the_clock_goes_back(tmp_path: Path) -> None:
    (tmp_path / "events-29991231T235959.999999Z.jsonl.zst").touch()
    (tmp_path / "events-zzz").touch()
    assert new_name(tmp_path).name == "events-30000101T000000.000000Z.jsonl"


def test_what_is_being_compressed_is_for_the_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, part = tmp_path / "events-1.jsonl", tmp_path / "events-1.jsonl.zst.part"
    plain.write_bytes(row(1))
    plain.chmod(0o640)
    modes: list[int] = []
    copy = shutil.copyfileobj

    def look(*args: Any) -> None:
        copy(*args)
        modes.append(stat.S_IMODE(part.stat().st_mode))

    monkeypatch.setattr("qmond.log.compress.shutil.copyfileobj", look)
    monkeypatch.setattr("sys.argv", ["compress", "zstd", str(plain)])
    monkeypatch.setattr("os.nice", lambda _: 0)
    assert compress.main() == 0
    assert modes == [0o600]
    (done,) = tmp_path.iterdir()
    assert (done.name, stat.S_IMODE(done.stat().st_mode)) == ("events-1.jsonl.zst", 0o640)


@pytest.mark.parametrize("method", ["zstd", "gzip"])
def test_compresses_after_a_delay(tmp_path: Path, method: str) -> None:
    log = open_log(tmp_path, size=10_000, compress=method, compress_delay=0.3)
    lines = [row(number) for number in range(1000)]
    for line in lines:
        log.write(line)
    log.retention.look(now=True)
    settle(log)
    assert not list(tmp_path.glob("*.zst")) + list(tmp_path.glob("*.gz")), "not yet"
    time.sleep(0.3)
    log.retention.look(now=True)
    settle(log)
    log.close()
    files = sorted(tmp_path.glob("events-*"))
    assert len(files) == 4
    assert {file.suffix for file in files} == {".zst" if method == "zstd" else ".gz"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o640}
    first = files[0].read_bytes()
    plain = gzip.decompress(first) if method == "gzip" else zstandard.decompress(first, 20_000)
    assert plain.startswith(lines[0])
    assert rows(tmp_path) == lines


def test_what_a_compressor_left_unfinished_goes(tmp_path: Path) -> None:
    plain = tmp_path / "events-20261123T080000.000000Z.jsonl"
    plain.write_bytes(row(1))
    (tmp_path / f"{plain.name}.zst.part").write_bytes(b"half")
    assert rows(tmp_path) == [] if not plain else [row(1)]
    log = open_log(tmp_path, compress="zstd")
    settle(log)
    log.close()
    assert not list(tmp_path.glob("*.part"))
    assert rows(tmp_path) == [row(1)]


def test_what_stays_is_bound_by_number_bytes_and_age(tmp_path: Path) -> None:
    for at in range(10):
        (tmp_path / f"events-202611{at + 10}T000000.000000Z.jsonl.zst").write_bytes(b"x" * 100)
    files = kept_files(tmp_path)
    now = files[-1].moment

    def gone(live: int = 0, **keep: int) -> int:
        limits = replace(Keep(files=100, bytes=10_000, age=1e9), **keep)
        chosen = surplus(files, limits, live, now)
        assert chosen == files[: len(chosen)], "the oldest first"
        return len(chosen)

    assert gone() == 0
    assert gone(files=7) == 3
    assert gone(bytes=450) == 6
    assert gone(bytes=450, live=200) == 8, "the live file counts"
    assert gone(bytes=50, live=200) == 10
    assert gone(age=86_400 * 4) == 5
    assert gone(age=86_400 * 4, files=2) == 8


def test_takes_no_file_of_someone_elses(tmp_path: Path) -> None:
    live = tmp_path / "events.jsonl"
    os.mkfifo(live)
    with pytest.raises(LogError, match="not a file of this daemon's alone"):
        open_log(tmp_path)
    live.unlink()
    (tmp_path / "elsewhere").touch()
    live.hardlink_to(tmp_path / "elsewhere")
    with pytest.raises(LogError, match="2 names"):
        open_log(tmp_path)
    live.unlink()
    tmp_path.chmod(0o777)
    with pytest.raises(LogError, match="mode 0777"):
        open_log(tmp_path)
    tmp_path.chmod(0o755)
    live.touch()
    if os.geteuid() == 0:
        os.chown(live, 12345, -1)
        with pytest.raises(LogError, match="owner 12345"):
            open_log(tmp_path)


def test_an_outside_rotation_is_followed(tmp_path: Path) -> None:
    log = open_log(tmp_path, size=10_000)
    log.write(row(1))
    log.reopen()
    assert [file.name for file in tmp_path.iterdir()] == ["events.jsonl"], "nothing to be done"
    (tmp_path / "events.jsonl").rename(tmp_path / "events.jsonl.1")
    log.write(row(2))
    log.reopen()
    log.write(row(3))
    log.close()
    assert (tmp_path / "events.jsonl.1").read_bytes() == row(1) + row(2)
    assert (tmp_path / "events.jsonl").read_bytes() == row(3)


def test_what_was_just_written_survives_the_removal_of_its_directory(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log = open_log(folder, size=10_000)
    log.write(row(1))
    log.check()
    log.write(row(2))
    (folder / "events.jsonl").unlink()
    folder.rmdir()
    folder.touch()  # no directory can be made here
    log.write(row(3))
    with pytest.raises(LogError, match="log"):
        log.check()
    with pytest.raises(LogError, match="removed"):
        log.write(row(4))
    folder.unlink()
    log.check()
    log.write(row(5))
    log.close()
    assert rows(folder) == [row(2), row(3), row(5)], "what was there before was removed"


def test_a_file_that_another_program_cut_is_gone_on_with(tmp_path: Path) -> None:
    log = open_log(tmp_path, size=10_000)
    log.write(row(1))
    os.truncate(tmp_path / "events.jsonl", 0)  # as logrotate's copytruncate
    log.check()
    log.write(row(2))
    assert log.bytes == len(row(2))
    log.close()
    assert rows(tmp_path) == [row(2)]


def test_what_could_not_be_taken_back_is_in_no_complete_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails in the middle of a line, and then does not take that back: played."""

    class Sick(Disk):
        def write(self, fd: int, lines: bytes) -> int:
            os.write(fd, bytes(lines)[:-5])
            return self.ftruncate(fd, 0)

        def ftruncate(self, _fd: int, _size: int) -> int:
            raise OSError(errno.EIO, "sick")

    log = open_log(tmp_path, size=10_000)
    log.write(row(1))
    with monkeypatch.context() as patch:
        patch.setattr("qmond.log.writer.os", Sick())
        for _ in range(2):
            with pytest.raises(LogError, match="sick"):
                log.write(row(2))
    complete = log.rotate()
    assert complete
    assert complete.read_bytes() == row(1)
    log.close()


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "none", path], check=True
    )
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_tears_nothing_and_is_recovered_from(tmp_path: Path) -> None:
    batch = b"".join(map(row, range(1000)))
    with small_disk(tmp_path / "disk", "1M") as disk:
        log = open_log(disk, size=200_000, files=1000)
        written = 0
        with pytest.raises(LogError, match="No space left"):
            while True:
                log.write(batch)
                written += 1
        assert rows(disk) == [row(number) for number in range(1000)] * written
        for file in disk.glob("events-*"):
            file.unlink()
        log.write(row(7))
        assert rows(disk)[-1] == row(7)
        log.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_old_files_go_where_room_is_short_and_then_writing_stops(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4M") as disk:
        log = open_log(disk, size=300_000, files=1000, min_free=2 << 20)
        for number in range(100):
            log.write(b"x" * 99_999 + b"\n")
            if number % 10 == 0:
                log.check()
                settle(log)
        log.retention._unfreed.clear()  # of files that seemed to give no room, beside such writing
        log.check()
        settle(log)
        free = os.statvfs(disk)
        assert free.f_bavail * free.f_frsize >= 2 << 20
        assert 3 <= log.retention.files <= 7
        other = disk / "other"
        other.write_bytes(bytes(free.f_bavail * free.f_frsize - 100_000))
        for _ in range(2):
            log.check()
            settle(log)
        log.check()
        assert not list(disk.glob("events-*"))
        with pytest.raises(LogError, match="min_free"):
            log.write(row(1))
        other.unlink()
        log.check()
        log.write(row(2))
        log.close()
        assert rows(disk)[-1] == row(2)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_rotation_that_fails_loses_nothing(tmp_path: Path) -> None:
    log = open_log(tmp_path, size=100)
    subprocess.run(["mount", "--bind", "-o", "ro", tmp_path, tmp_path], check=True)
    try:
        for number in range(10):
            log.write(row(number))
            log.check()
        with pytest.raises(LogError, match="Read-only"):
            log.rotate()
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert rows(tmp_path) == [row(number) for number in range(10)]
    assert log.rotate()
    log.close()


@pytest.mark.parametrize("sync", ["never", "rotate", "batch", 0.1])
def test_every_way_to_the_disk_writes_the_same(tmp_path: Path, sync: object) -> None:
    log = open_log(tmp_path, size=200, sync=sync)
    for number in range(50):
        log.write(row(number))
        log.check()
    log.close()
    assert rows(tmp_path) == [row(number) for number in range(50)]


def test_what_the_disk_did_not_take_is_said_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Buffered writes succeed, and the disk is sick: that shows when they go to it. Played."""
    asked = []

    class Sick(Disk):
        sick = True

        def fdatasync(self, fd: int) -> None:
            asked.append(fd)
            if self.sick:
                raise OSError(errno.EIO, "sick")

    disk = Sick()
    monkeypatch.setattr("qmond.log.writer.os", disk)
    log = open_log(tmp_path, size=10_000, sync=0.1)
    log.write(row(1))
    for _ in range(4):
        log.check()
        time.sleep(0.01)
    assert caplog.text.count("written lines may not be on the disk") == 1
    assert len(asked) > 1, "nothing new was written, and still"
    disk.sick = False
    for _ in range(3):
        log.check()
        time.sleep(0.01)
    tried = len(asked)
    for _ in range(3):
        log.check()
        time.sleep(0.01)
    assert len(asked) == tried, "all is on the disk"
    log.close()


def test_is_in_trouble_until_it_can_be_written_though_nothing_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmond.log.keeper._RECOVERED", 0.0)
    folder = tmp_path / "log"
    log = open_log(folder)
    keeper = LogKeeper(log, Counter())
    assert keeper.write(row(1))
    shutil.rmtree(folder)
    folder.touch()
    keeper.check()
    keeper.check()
    assert keeper.failing
    folder.unlink()
    keeper.check()
    keeper.check()
    assert not keeper.failing
    assert keeper.write(row(2))
    log.close()


def test_an_empty_log_goes_on_after_what_is_compressed(tmp_path: Path) -> None:
    log = open_log(tmp_path, size=10_000, compress="gzip", compress_delay=0.0)
    for number in range(1, 101):
        log.write(row(number))
    log.rotate()
    settle(log)
    log.close()
    assert [path.suffix for path in tmp_path.glob("events-*")] == [".gz"]
    log = open_log(tmp_path)
    assert log.last_line()["seq"] == 100
    log.close()
    next(tmp_path.glob("*.gz")).write_bytes(b"garbage")
    log = open_log(tmp_path)
    assert log.last_line() == {}
    log.close()


def test_what_was_written_after_an_end_is_taken_back(tmp_path: Path) -> None:
    log = open_log(tmp_path, size=10_000)
    log.write(b"one\n")
    end = log.end
    assert log.cut(end) == 0
    log.write(b"two\n")
    assert log.cut(end) == 4
    assert rows(tmp_path) == [b"one\n"]
    (tmp_path / "nowhere").symlink_to("elsewhere")
    log.rotate()
    log.write(b"three\n")  # in a file that was begun since
    assert log.cut(end) == 6
    log.write(b"four\n")
    other = end._replace(device=end.device + 1)
    assert log.cut(other) == 0, "the same number on another disk is another log"
    log.close()
    assert rows(tmp_path) == [b"one\n", b"four\n"]


def test_half_a_line_is_taken_back_though_another_program_cut_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sick(Disk):
        def write(self, fd: int, lines: bytes) -> int:
            if len(lines) > 40:
                return os.write(fd, bytes(lines)[:40])
            raise OSError(errno.ENOSPC, "full")

    log = open_log(tmp_path, size=10_000)
    log.write(row(1))
    os.truncate(tmp_path / "events.jsonl", 0)
    with monkeypatch.context() as patch, pytest.raises(LogError, match="full"):
        patch.setattr("qmond.log.writer.os", Sick())
        log.write(row(2))
    log.write(row(3))
    log.close()
    assert (tmp_path / "events.jsonl").read_bytes() == row(3)


def test_old_files_go_while_another_is_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compressor takes for ever: on a host that has no time for it."""

    def never_ends(_command: object) -> subprocess.Popen[bytes]:
        return real(["sleep", "60"])

    real = subprocess.Popen
    log = open_log(tmp_path, files=3, compress="zstd", compress_delay=0.0)
    with monkeypatch.context() as patch:
        patch.setattr("qmond.log.retention._STEP", 0.01)
        patch.setattr("qmond.log.retention.subprocess.Popen", never_ends)
        most = 0
        for _ in range(50):
            log.write(b"x" * 99 + b"\n")
            log.check()
            time.sleep(0.02)
            most = max(most, len(list(tmp_path.glob("events-*"))))
        assert most <= 8
        log.close()


def test_a_compression_that_failed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(tmp_path, size=10_000, compress="zstd", compress_delay=0.0)
    with monkeypatch.context() as patch:
        patch.setattr("qmond.log.retention.sys.executable", "/bin/false")
        log.write(row(1))
        log.rotate()
        settle(log)
    assert [path.suffix for path in tmp_path.glob("events-*")] == [".jsonl"]
    log.retention.look(now=True)
    settle(log)
    assert [path.suffix for path in tmp_path.glob("events-*")] == [".jsonl"], "not at once"
    log.retention._postponed = dict.fromkeys(log.retention._postponed, 0.0)  # that time is over
    log.retention.look(now=True)
    settle(log)
    log.close()
    assert [path.suffix for path in tmp_path.glob("events-*")] == [".zst"]


def test_names_of_the_future_do_not_stop_what_is_due(tmp_path: Path) -> None:
    (tmp_path / "events-29991231T235959.999999Z.jsonl").write_bytes(row(1))
    (tmp_path / "events-20269999T000000.000000Z.jsonl").touch()  # no moment, and none of ours
    log = open_log(tmp_path, compress="zstd", compress_delay=0.0)
    log.write(row(2))
    log.rotate()
    settle(log)
    log.close()
    assert [path.suffix for path in tmp_path.glob("events-[23]*00*Z.*")].count(".zst") == 1
    assert rows(tmp_path)[:2] == [row(1), row(2)]
    assert sorted(file.path.suffix for file in kept_files(tmp_path)) == [".zst", ".zst"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_the_end_of_a_removed_file_waits_for_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1M") as disk:
        log = open_log(disk, size=10_000_000)
        log.check()
        log.write(row(1) * 10_000)
        filler = disk / "filler"
        filler.write_bytes(bytes(350_000))
        (disk / "events.jsonl").unlink()
        for _ in range(3):
            with pytest.raises(LogError, match="No space left"):
                log.check()
        filler.unlink()
        log.check()
        log.write(row(2))
        log.close()
        assert rows(disk) == [*[row(1)] * 10_000, row(2)]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_files_that_are_read_are_not_removed_for_nothing(tmp_path: Path) -> None:
    """They give their room back only when they are closed."""
    with small_disk(tmp_path / "disk", "4M") as disk, ExitStack() as stack:
        log = open_log(disk, size=100_000, files=1000)
        for _ in range(20):
            log.write(b"x" * 99_999 + b"\n")
        for path in disk.glob("events-*"):
            stack.enter_context(path.open("rb"))
        log.configure(replace(log._config, min_free=room(log._config) + 150_000))
        settle(log)
        for _ in range(10):
            log.check()
            settle(log)
        assert log.retention.files == 17, "two give enough"
        log.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_torn_end_on_a_full_disk_stops_nobody(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1M") as disk:
        (disk / "events.jsonl").write_bytes(row(1) + b"x" * 500_000)
        (disk / "filler").write_bytes(bytes(500_000))
        log = open_log(disk)
        log.write(row(2))
        log.close()
        assert rows(disk) == [row(1), row(2)]
        assert not list(disk.glob("*.torn"))


def test_another_daemon_disturbs_no_rotation(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    (tmp_path / "events.new").touch()  # as in the middle of one
    with pytest.raises(InUseError):
        open_log(tmp_path)
    assert (tmp_path / "events.new").exists()
    log.close()


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
