"""SQL over the logs, and over nothing else."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from qmond.ctl import main, query
from qmond.ctl.formats import sql
from qmond.errors import QmondError

TIME = "2026-11-23T08:00:01.250000Z"
EVENTS: list[dict[str, Any]] = [
    {"ts": 1.5, "event": "READ", "pid": 7, "fd": 3, "buf": 'it\'s "x"\n\u0000\u2028', "len": 5,
     "time": TIME, "seq": 1, "tid": 7},
    {"ts": 2.5, "event": "READ", "pid": 7, "fd": 3, "buf": "", "len": 2, "truncated": True,
     "seq": 2, "tid": 7},
    {"ts": 3.5, "event": "TRACK_ADOPT", "pid": 8, "argv": ["a", "b c"], "start": 12.34,
     "parents": [{"pid": 6, "comm": "sh"}], "arch": None},
    {"ts": 4.5, "evt": "ALLOC_SUM", "pid": -1, "meta": {"count": 2, "by_pid": {"8": 2}}},
    {"ts": 5.5, "event": "OF_A_LATER_VERSION", "pid": 8, "unknown": 1, "fd": 2**40},
    {"ts": 6.5, "event": "SENDTO", "pid": 7, "len": 2**64 - 1, "seq": 6, "tid": 7},
    {"ts": 7.5, "event": "LOST", "count": 3, "by_event": {"READ": 3}, "stage": "ring",
     "since": 1.0},
    {"ts": 8.5, "event": "TRACK_OPENAT", "pid": 7, "file": "/a", "bin": "qemu-arm", "seq": 8},
    {"ts": 8.6, "event": "CONNECT", "pid": 7, "addr": "127.0.0.1:9", "guest": "/g", "seq": 9},
    {"ts": 8.7, "event": "EXEC", "pid": 7, "filename": "/bin/\x1b[31m", "guest": "/g", "seq": 10},
]  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in EVENTS) + '{"ts":9.0,"ev')
    return file


def ask(text: str, log: Path) -> list[tuple[Any, ...]]:
    with sql.answered(text, [log]) as answer:
        return list(answer.rows)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("SELECT count(*) FROM events", [(len(EVENTS),)]),
        ("SELECT sum(len), max(ts) FROM events WHERE event = 'READ'", [(7, 2.5)]),
        ("SELECT buf FROM events WHERE len = 5", [(EVENTS[0]["buf"],)]),
        ("SELECT truncated FROM events WHERE event = 'READ' ORDER BY ts", [(None,), (True,)]),
        ("SELECT argv[2], start, parents[1].comm FROM events WHERE argv IS NOT NULL",
         [("b c", 12.34, "sh")]),
        ("SELECT pid, meta->>'$.count' FROM events WHERE event = 'ALLOC_SUM'", [(-1, "2")]),
        ("SELECT fd FROM events WHERE event LIKE 'OF_%'", [(2**40,)]),
        ("SELECT len FROM events WHERE event = 'SENDTO'", [(2**64 - 1,)]),
        ("SELECT by_event['READ'], count FROM events WHERE event = 'LOST'", [(3, 3)]),
        ("SELECT time FROM events WHERE time IS NOT NULL",
         [(datetime.fromisoformat("2026-11-23T08:00:01.250000"),)]),
        ("SELECT 1 WHERE false", []),
    ],
)  # fmt: skip
def test_what_a_query_gives(
    text: str, rows: list[tuple[Any, ...]], log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(text, log) == rows
    said = capsys.readouterr().err
    assert f"{log}:{len(EVENTS) + 1}: cut off before its end" in said
    assert f"{log}:5: the event 'OF_A_LATER_VERSION'" in said


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('{}/events.jsonl')",
        "SELECT * FROM '{}/events.jsonl'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM EVENTS_OF_THIS_TEST",
        "COPY events TO '{}/out.csv'",
        "COPY (SELECT 1) TO '{}/out.csv'",
        "EXPORT DATABASE '{}/out'",
        "SET enable_external_access = true",
        "SELECT 1; SET enable_external_access = true; SELECT * FROM '{}/events.jsonl'",
        "PRAGMA temp_directory='{}/out'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "ATTACH '{}/out.db'",
        "DROP TABLE events",
        "EXPLAIN ANALYZE COPY events TO '{}/out.csv'",
        "",
        "SELEC",
        "SELECT nosuch FROM events",
        "SELECT '\x1b[2J'::INTEGER",
    ],
)
def test_no_file_no_change_and_no_nonsense(text: str, log: Path) -> None:
    before = log.read_bytes()
    with pytest.raises(QmondError, match="SQL: ") as caught:
        ask(text.replace("{}", str(log.parent)), log)
    assert "\x1b" not in str(caught.value)
    assert list(log.parent.iterdir()) == [log]
    assert log.read_bytes() == before


def test_the_examples_of_the_help_work(log: Path) -> None:
    examples = re.findall(r'^qmonctl query "([^"]+)"', query.__doc__ or "", re.MULTILINE)
    assert len(examples) == 5
    answers = [ask(example, log) for example in examples]
    assert answers[0] == [("/a", 1)]
    assert ("READ", 7, 3, 7) in answers[1]
    assert answers[2] == [(None, 7, "/g", "/bin/\x1b[31m")]
    assert answers[3] == [("/g", "127.0.0.1:9", 1)]
    assert answers[4][0] == (4.0, 6, 7, "SENDTO")


def test_the_verb(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "SELECT event, pid FROM events WHERE pid = 8 ORDER BY ts LIMIT 1"
    assert main(["query", text, str(log)]) == 0
    assert capsys.readouterr().out == "event        pid\nTRACK_ADOPT    8\n"
    assert main(["query", "--csv", text, str(log)]) == 0
    assert capsys.readouterr().out == "event,pid\r\nTRACK_ADOPT,8\r\n"
    assert main(["query", "--json", text, str(log)]) == 0
    assert json.loads(capsys.readouterr().out) == {"event": "TRACK_ADOPT", "pid": 8}
    assert main(["query", "SELECT '\x1b[2J' AS \"\x1b[1m\"", str(log)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["query", "--csv", "SELECT '=1+1', 'nan'::DOUBLE", str(log)]) == 0
    row = list(csv.reader(io.StringIO(capsys.readouterr().out)))[1]
    assert row == ["'=1+1", "nan"]
    assert main(["query", "--json", "SELECT 'nan'::DOUBLE AS n, argv FROM events", str(log)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"n": None, "argv": ["a", "b c"]} in rows


def test_the_columns_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "--tables"]) == 0
    rows = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert (rows["len"], rows["pid"], rows["fd"]) == ("UBIGINT", "BIGINT", "BIGINT")
    assert (rows["ts"], rows["argv"], rows["fault"]) == ("DOUBLE", "VARCHAR[]", "BOOLEAN")
    with pytest.raises(SystemExit):
        main(["query"])


@pytest.mark.parametrize(
    ("word", "status", "told"),
    [("é".encode(), 0, '{"found":"é"}'), (b"\xe9", 2, "SQL: not valid UTF-8")],
)
def test_sql_is_utf8_in_any_locale(word: bytes, status: int, told: str, log: Path) -> None:
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    program = "from qmond.ctl import main; import sys; sys.exit(main())"
    asking = [sys.executable, "-c", program, "query", "--json"]
    done = subprocess.run(
        [*asking, b"SELECT '" + word + b"' AS found", log],
        capture_output=True,
        check=False,
        env=os.environ | locale,
    )
    assert done.returncode == status
    assert told in (done.stdout + done.stderr).decode()


def test_a_query_can_be_stopped(log: Path) -> None:
    endless = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"
    command = [sys.executable, "-c", "from qmond.ctl import main; import sys; sys.exit(main())"]
    with subprocess.Popen([*command, "query", endless, str(log)], stderr=subprocess.PIPE) as asking:
        assert asking.stderr is not None
        while b"cut off" not in asking.stderr.readline():
            pass
        for _ in range(50):
            asking.send_signal(signal.SIGINT)
            try:
                status = asking.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
            assert status in {130, -signal.SIGINT}, asking.stderr.read()
            break
        else:
            asking.kill()
            pytest.fail(f"it goes on: {shlex.join(command)}")


@pytest.mark.parametrize(
    ("files", "command"),
    [
        (["venv/bin/pip"], "sudo {venv}/bin/pip install duckdb"),
        (["files"], "sudo {venv}/bin/python3 -m pip install duckdb"),
        ([], "sudo apt install ./qmond-query_*.deb"),
    ],
    ids=["checkout", "make install", "package"],
)
def test_without_duckdb_it_says_what_to_do(
    files: list[str], command: str, log: Path, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    program = (
        f"import sys; sys.modules['duckdb'] = None; sys.prefix = {str(tmp_path / 'venv')!r}; "
        "from qmond.ctl import main; sys.exit(main())"
    )
    asking = [sys.executable, "-c", program, "query", "SELECT 1", str(log)]
    done = subprocess.run(asking, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert command.format(venv=tmp_path / "venv") in done.stderr
    assert "Traceback" not in done.stderr
