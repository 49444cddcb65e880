"""SQL over the logs, and over nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from qmond.ctl import main
from qmond.ctl.query import select
from qmond.errors import QmondError

EVENTS: list[dict[str, Any]] = [
    {"ts": 1.5, "event": "READ", "pid": 7, "fd": 3, "buf": 'it\'s "x"\n\u0000\u2028', "len": 5},
    {"ts": 2.5, "event": "READ", "pid": 7, "fd": 3, "buf": "", "len": 2, "truncated": True},
    {"ts": 3.5, "event": "TRACK_ADOPT", "pid": 8, "argv": ["a", "b c"], "start": 12.34},
    {"ts": 4.5, "evt": "ALLOC_SUM", "pid": -1, "meta": {"count": 2}},
    {"ts": 5.5, "event": "OF_A_LATER_VERSION", "pid": 8, "unknown": 1, "fd": 2**40},
]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT count(*) FROM events", [(5,)]),
        ("SELECT sum(len), max(ts) FROM events WHERE event = 'READ'", [(7, 2.5)]),
        ("SELECT buf FROM events WHERE len = 5", [(EVENTS[0]["buf"],)]),
        ("SELECT truncated FROM events WHERE pid = 7 ORDER BY ts", [(None,), (True,)]),
        ("SELECT argv->>1, start FROM events WHERE pid = 8 AND argv IS NOT NULL",
         [("b c", 12.34)]),
        ("SELECT pid FROM events WHERE event = 'ALLOC_SUM'", [(-1,)]),
        ("SELECT fd FROM events WHERE event LIKE 'OF_%'", [(2**40,)]),
        ("SELECT 1 WHERE false", []),
    ],
)  # fmt: skip
def test_what_a_query_gives(sql: str, rows: list[tuple[Any, ...]]) -> None:
    assert select(sql, EVENTS)[1] == rows


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "COPY events TO '{}/out.csv'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "ATTACH '{}/out.db'",
        "SELEC",
        "SELECT nosuch FROM events",
    ],
)
def test_no_file_and_no_nonsense(sql: str, tmp_path: Path) -> None:
    with pytest.raises(QmondError, match="SQL: "):
        select(sql.replace("{}", str(tmp_path)), EVENTS)
    assert not list(tmp_path.iterdir())


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    sql = "SELECT event, pid FROM events WHERE pid = 8 ORDER BY ts LIMIT 1"
    assert main(["query", sql, str(file)]) == 0
    assert capsys.readouterr().out.split() == ["event", "pid", "TRACK_ADOPT", "8"]
    assert main(["query", "--csv", sql, str(file)]) == 0
    assert capsys.readouterr().out == "event,pid\r\nTRACK_ADOPT,8\r\n"
    assert main(["query", "--json", sql, str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == {"event": "TRACK_ADOPT", "pid": 8}
    assert main(["query", "SELECT '\x1b[2J'", str(file)]) == 0
    assert "\x1b" not in capsys.readouterr().out
