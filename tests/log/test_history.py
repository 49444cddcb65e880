"""The past out of the log's files, whatever happened to them meanwhile."""

import gzip
import json
import threading
from pathlib import Path

import pytest
import zstandard

from qmond.log.files import Position
from qmond.log.history import History, number_of


def line(number: int, event: str = "READ", second: int = 0) -> bytes:
    moment = f"2026-11-23T08:00:{second or number % 60:02}.000000Z"
    row = {"ts": number / 10, "event": event, "buf": ',"seq":7', "time": moment, "seq": number}
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"


def fill(folder: Path, *files: bytes) -> list[Path]:
    """Write the log's files, the live one last; returns their paths."""
    names = [f"events-2026112{at}T080000.000000Z.jsonl" for at in range(len(files) - 1)]
    paths = [folder / name for name in [*names, "events.jsonl"]]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    return paths


def span(first: int, last: int) -> bytes:
    return b"".join(map(line, range(first, last + 1)))


def numbers(lines: object) -> list[int]:
    return [number_of(row) for row in lines]  # type: ignore[attr-defined]


@pytest.fixture
def log(tmp_path: Path) -> list[Path]:
    return fill(tmp_path, span(1, 20), span(21, 40), span(41, 50))


def test_all_of_it_in_order(log: list[Path]) -> None:
    with History(log[0].parent) as history:
        assert numbers(history.lines()) == list(range(1, 51))
        assert history.oldest() == 1


@pytest.mark.parametrize("first", [1, 2, 20, 21, 40, 41, 50, 51])
def test_from_a_number_on(log: list[Path], first: int) -> None:
    with History(log[0].parent) as history:
        assert numbers(history.numbers(first)) == list(range(first, 51))
        assert numbers(history.numbers(first, 45)) == list(range(first, 46))


def test_from_a_moment_on(log: list[Path]) -> None:
    with History(log[0].parent) as history:
        moment = 1795420800 + 37.5  # 2026-11-23T08:00:37.5Z
        assert numbers(history.since(moment)) == list(range(38, 51))
        assert numbers(history.since(moment - 3600)) == list(range(1, 51))
        assert numbers(history.since(moment + 3600)) == []


@pytest.mark.parametrize(
    ("moment", "count"), [(-8.6e16, 50), (-5e10, 50), (0.0, 50), (2.6e11, 0), (1e18, 0)]
)
def test_from_a_moment_that_no_line_can_have(log: list[Path], moment: float, count: int) -> None:
    with History(log[-1].parent) as history:
        assert len([*history.since(moment)]) == count


def test_up_to_a_place(log: list[Path]) -> None:
    place = Position.at(log[2].stat(), len(span(41, 45)))
    with History(log[0].parent, place) as history:
        assert numbers(history.lines()) == list(range(1, 46))
        assert [numbers(lines) for lines in history.backwards()] == [
            list(range(41, 46)), list(range(21, 41)), list(range(1, 21))
        ]  # fmt: skip
    log[2].rename(log[2].with_name("events-20261129T080000.000000Z.jsonl"))
    log[2].write_bytes(span(51, 60))
    with History(log[0].parent, place) as history:
        assert numbers(history.numbers(30)) == list(range(30, 46)), "its file was rotated since"


def test_up_to_a_place_whose_file_is_gone(log: list[Path]) -> None:
    gone = log[2].with_name("gone")
    gone.write_bytes(span(48, 50))
    place = Position.at(gone.stat(), 7)
    gone.unlink()
    log[0].with_name("events-20261101T080000.000000Z.jsonl").write_bytes(span(900, 950))
    with History(log[0].parent, place, 45) as history:
        assert numbers(history.numbers(30)) == list(range(30, 45))
        assert next(numbers(lines) for lines in history.backwards()) == list(range(41, 45))
        assert numbers(history.lines()) == [*range(900, 951), *range(1, 45)], "of two boots"
    with History(log[0].parent, place, 41) as history:
        assert numbers(history.numbers(41)) == []
    log[2].rename(log[2].with_name("events-20261129T080000.000000Z.jsonl"))
    log[2].write_bytes(span(51, 60))
    with History(log[0].parent, place, 45) as history:
        assert numbers(history.numbers(30)) == list(range(30, 45)), "there are two such files"


def test_compressed_files_are_the_same(log: list[Path]) -> None:
    zst = log[0].with_name(log[0].name + ".zst")
    zst.write_bytes(zstandard.ZstdCompressor().compress(log[0].read_bytes()))
    gz = log[1].with_name(log[1].name + ".gz")
    gz.write_bytes(gzip.compress(log[1].read_bytes()))
    log[0].unlink()
    log[1].unlink()
    with History(log[0].parent) as history:
        assert numbers(history.numbers(5)) == list(range(5, 51))


def test_a_file_compressed_or_gone_after_the_look(log: list[Path]) -> None:
    with History(log[0].parent) as history:
        gz = log[1].with_name(log[1].name + ".gz")
        gz.write_bytes(gzip.compress(log[1].read_bytes()))
        log[1].unlink()
        log[0].unlink()
        found = list(history.numbers(5))
    assert json.loads(found[0])["event"] == "GAP"
    assert [json.loads(found[0])[key] for key in ("from_seq", "to_seq")] == [5, 20]
    assert numbers(found[1:]) == list(range(21, 51))


def test_what_is_read_goes_on_though_it_is_removed(log: list[Path]) -> None:
    with History(log[0].parent) as history:
        lines = history.numbers(5)
        assert number_of(next(lines)) == 5
        for path in log:
            path.unlink()
        assert numbers(lines)[:15] == list(range(6, 21))


def test_gaps_are_told(tmp_path: Path) -> None:
    fill(tmp_path, span(11, 15) + span(18, 20), span(31, 32))
    with History(tmp_path) as history:
        found = [json.loads(row) for row in history.numbers(9, 35)]
        assert history.oldest() == 11
    gaps = [(row["from_seq"], row["to_seq"]) for row in found if row["event"] == "GAP"]
    assert gaps == [(9, 10), (16, 17), (21, 30), (33, 35)]


@pytest.mark.parametrize(
    "files",
    [
        (span(1, 90), span(1, 9)),
        (span(50, 90), span(1, 4), span(5, 9)),
        (span(2, 9), span(1, 4), span(5, 9)),
        (span(1, 3), span(4, 90), span(1, 9)),
        (span(1, 9), b""),
    ],
)
def test_numbers_are_those_of_this_boot(tmp_path: Path, files: tuple[bytes, ...]) -> None:
    fill(tmp_path, *files)
    with History(tmp_path) as history:
        assert numbers(history.numbers(1)) == list(range(1, 10))
        assert numbers(history.numbers(6)) == list(range(6, 10))


def test_a_number_far_into_a_large_file_is_found_without_reading_all(tmp_path: Path) -> None:
    row = {"event": "READ", "buf": "x" * 3000, "seq": 0}
    lines = (json.dumps(row | {"seq": at}, separators=(",", ":")) for at in range(1, 5001))
    fill(tmp_path, "\n".join([*lines, ""]).encode())
    for number in (1, 2, 2500, 4998, 5000):
        with History(tmp_path) as history:
            found = numbers(history.numbers(number, number))
            assert found == [number]
            read = history._files[-1]._file
            assert read
            assert read.tell() - (number - 1) * 3030 < 5 << 20
    with History(tmp_path) as history:
        next(history.numbers(4000))
        assert history._files[-1]._begin > 10 << 20


def test_a_torn_line_is_nobodys(tmp_path: Path) -> None:
    fill(tmp_path, span(1, 3) + line(4)[:20])
    with History(tmp_path) as history:
        assert numbers(history.numbers(1)) == [1, 2, 3]
    (tmp_path / "events.jsonl").write_bytes(b"")
    with History(tmp_path) as history:
        assert list(history.lines()) == []
        assert history.oldest() is None


@pytest.mark.parametrize("compressed", [False, True])
def test_what_came_after_the_end_is_no_part_of_it(log: list[Path], compressed: bool) -> None:  # noqa: FBT001
    """The file was rotated since, and another one after it."""
    end = Position.at(log[2].stat(), len(span(41, 45)))
    renamed = log[0].with_name("events-20261125T080000.000000Z.jsonl")
    log[2].rename(renamed)
    later = log[0].with_name("events-20261126T080000.000000Z.jsonl")
    later.write_bytes(span(51, 60))
    log[2].write_bytes(span(61, 70))
    with History(log[0].parent, end) as history:
        if compressed:  # while it is read
            renamed.with_name(renamed.name + ".zst").write_bytes(
                zstandard.compress(renamed.read_bytes())
            )
            renamed.unlink()
        assert numbers(history.lines()) == list(range(1, 46))
    renamed.write_bytes(span(41, 50))
    end = Position.at(renamed.stat(), len(span(41, 45)))
    with History(log[0].parent, end) as history:
        assert numbers(next(history.backwards())) == list(range(41, 46))
    with History(log[0].parent, end) as history:
        assert numbers(history.numbers(44)) == [44, 45]
    with History(log[0].parent, end) as history:
        assert numbers(history.since(1795420800 + 42.5)) == [43, 44, 45]


@pytest.mark.parametrize("suffix", [".zst", ".gz"])
def test_a_damaged_file_ends_where_it_is_damaged(
    log: list[Path], suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = span(1, 20_000)
    packed = zstandard.compress(whole) if suffix == ".zst" else gzip.compress(whole)
    half = len(packed) // 2
    log[0].with_name(log[0].name + suffix).write_bytes(packed[:half] + b"\xff" * half)
    log[0].unlink()
    log[1].write_bytes(span(20_001, 20_020))
    log[2].write_bytes(span(20_021, 20_030))
    with History(log[0].parent) as history:
        found = numbers(history.lines())
        *rows, gap = [row for row in history.numbers(1, 20_010) if b"GAP" in row]
    assert found[-30:] == list(range(20_001, 20_031))
    assert rows == []
    assert json.loads(gap)["to_seq"] == 20_000
    assert f"{log[0].name}{suffix} cannot be read to its end: damaged" in caplog.text


def test_it_waits_for_a_rotation_that_is_under_way(log: list[Path]) -> None:
    fresh = log[2].with_name("events.new")
    fresh.write_bytes(span(51, 55))
    log[2].rename(log[0].with_name("events-20261125T080000.000000Z.jsonl"))
    ended = threading.Timer(0.1, lambda: fresh.rename(log[2]))
    ended.start()
    with History(log[0].parent) as history:
        assert numbers(history.lines()) == list(range(1, 56))
    ended.join()
    log[2].unlink()
    with pytest.raises(FileNotFoundError):
        History(log[0].parent)
