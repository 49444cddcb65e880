"""The names of the log's files: what is made is recognised, and each file is found once."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from qmond.lognames import COMPRESSED, PART, rotated_files, rotated_name, rotation_time

MOMENT = datetime(2026, 11, 23, 8, 34, 52, 123456, UTC)
NAME = "events-20261123T083452.123456Z.jsonl"


def test_a_name_tells_the_moment_that_it_was_made_from() -> None:
    assert rotated_name(MOMENT) == NAME
    assert rotation_time(f"{NAME}.zst") == MOMENT


@pytest.mark.parametrize(
    "name", ["events.jsonl", "events-old.jsonl", "events-20261323T083452.123456Z.jsonl"]
)
def test_other_names_tell_none(name: str) -> None:
    assert rotation_time(name) is None


@pytest.mark.parametrize("suffix", COMPRESSED.values())
def test_each_rotated_file_is_found_once_and_in_order(tmp_path: Path, suffix: str) -> None:
    earlier, later = NAME.replace("T08", "T07"), NAME.replace("T08", "T09")
    for name in (NAME, f"{NAME}{suffix}", f"{earlier}{suffix}", later):
        (tmp_path / name).touch()
    for other in (
        "events.jsonl",
        "events.new",
        NAME.replace(".jsonl", ".torn"),
        f"events-0.jsonl{suffix}{PART}",
    ):
        (tmp_path / other).touch()
    found = [path.name for path in rotated_files(tmp_path)]
    assert found == [f"{earlier}{suffix}", NAME, later]
