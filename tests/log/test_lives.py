"""What is rare is kept by user: nobody's storm pushes out what another did."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qmond.config.keys import Keep, Log
from qmond.events.table import EVENTS, NUMBER
from qmond.lines.encoder import Encoder
from qmond.log.lives import Lives

QUOTA = 1 << 20


def batch(events: Iterable[dict[str, Any]]) -> Encoder:
    encoder = Encoder()
    for event in events:
        line = json.dumps({"ts": 1.5, **event}, separators=(",", ":")).encode() + b"\n"
        encoder.append(line, NUMBER[event["event"]], 1, 1)
    return encoder


def adopted(pid: int, uid: int, seq: int = 1, argv: str = "x") -> dict[str, Any]:
    head = {"event": "TRACK_ADOPT", "pid": pid, "argv": [argv]}
    return {**head, "uid": uid, "seq": seq}


def told(pid: int, seq: int, event: str = "EXEC") -> dict[str, Any]:
    return {"event": event, "pid": pid, "filename": "/bin/true", "seq": seq}


def lives(folder: Path, *, redone: int | None = None, quota: int = QUOTA) -> Lives:
    config = Log(dir=folder, keep=Keep(lives=quota))
    return Lives(config, None, {7: 70}.get, redone)


def found(folder: Path) -> dict[str, list[int]]:
    """Return the numbers of the lines in each file."""
    return {
        path.name: [json.loads(line)["seq"] for line in path.read_bytes().splitlines()]
        for path in (folder / "lives").iterdir()
    }


def test_lines_are_kept_by_user(tmp_path: Path) -> None:
    kept = lives(tmp_path)
    forged = '","uid":5,"event":"TRACK_FORK","parent":1,"child":3'
    fork = {"event": "TRACK_FORK", "parent": 1, "child": 2, "seq": 3}
    read = {"event": "READ", "pid": 1, "seq": 4}
    start = {"event": "START", "message": "x", "seq": 5}
    kept.take(batch([adopted(1, 1000, 1, forged), adopted(9, 165535, 2), fork, read, start]))
    kept.take(batch([told(2, 6), told(7, 7), told(8, 8), told(2, 9, "EXIT"), told(2, 10)]))
    assert found(tmp_path) == {
        "uid-1000.jsonl": [1, 3, 6, 9],
        "uid-131072-196607.jsonl": [2],
        "uid-70.jsonl": [7],
        "host.jsonl": [5],
        "unknown.jsonl": [8, 10],
    }
    (mode,) = {path.stat().st_mode & 0o777 for path in (tmp_path / "lives").iterdir()}
    assert mode == 0o640


def test_a_storm_pushes_out_its_own_users_lines_alone(tmp_path: Path) -> None:
    kept = lives(tmp_path)
    kept.take(batch([adopted(1, 1000, 1), adopted(2, 2000, 2)]))
    for at in range(300):
        kept.take(batch([told(1, at * 10 + n + 3) for n in range(10)]))
    files = found(tmp_path)
    assert files["uid-2000.jsonl"] == [2]
    mine = files["uid-1000.old.jsonl"] + files.get("uid-1000.jsonl", [])
    assert mine == list(range(mine[0], 3003))
    assert mine[0] > 3
    size = sum(path.stat().st_size for path in (tmp_path / "lives").iterdir())
    assert size < QUOTA / 32


def test_many_users_take_no_more_than_the_quota(tmp_path: Path) -> None:
    kept = lives(tmp_path)
    for uid in range(100):
        kept.take(batch([adopted(uid + 1, uid, uid + 1)]))
        os.utime(tmp_path / f"lives/uid-{uid}.jsonl", (uid, uid))
    assert set(found(tmp_path)) == {f"uid-{uid}.jsonl" for uid in range(36, 100)}


def test_what_is_done_again_after_an_abrupt_end_stands_there_once(tmp_path: Path) -> None:
    before = lives(tmp_path)
    before.take(batch([adopted(7, 70, 1), told(7, 2), told(7, 3)]))
    with (tmp_path / "lives/uid-70.jsonl").open("ab") as file:
        file.write(b'{"ts":1.5,"event":"EX')
    after = lives(tmp_path, redone=3)
    after.take(batch([told(7, 3), told(7, 4)]))
    assert found(tmp_path) == {"uid-70.jsonl": [1, 2, 3, 4]}


def test_none_are_kept_where_none_are_wanted(tmp_path: Path) -> None:
    lives(tmp_path, quota=0).take(batch([adopted(1, 1000)]))
    assert not (tmp_path / "lives").exists()


def test_no_trouble_with_them_is_the_daemons(tmp_path: Path) -> None:
    (tmp_path / "lives").mkdir()
    (tmp_path / "lives/uid-70.jsonl").symlink_to("/etc/passwd")
    kept = lives(tmp_path)
    kept.take(batch([told(7, 1)]))
    (tmp_path / "lives/uid-70.jsonl").unlink()
    kept.take(batch([told(7, 2)]))
    assert found(tmp_path) == {"uid-70.jsonl": [2]}


def test_the_manual_names_the_events_that_are_kept() -> None:
    text = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    (named,) = re.findall(r"`/var/log/qmond/lives`\.\s+These\s+are ([^.]*)\.", text)
    assert set(re.findall(r"`(\w+)`", named)) == {event.name for event in EVENTS if event.rare}
