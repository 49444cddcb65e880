"""Ask the logs in SQL: the table `events` has a column for each key of docs/events.md.

qmonctl query "SELECT event, count(*) AS n FROM events GROUP BY ALL ORDER BY n DESC"
qmonctl query "SELECT file, count(*) AS n FROM events WHERE event='TRACK_OPENAT' GROUP BY ALL"
qmonctl query "SELECT pid, fd, sum(len) FROM events WHERE event='READ' GROUP BY ALL"
qmonctl query "SELECT time, guest, addr FROM events WHERE event='CONNECT'" run1/events.jsonl
qmonctl query "SELECT seq, ts - lag(ts) OVER (ORDER BY seq) AS gap FROM events ORDER BY gap DESC"

A key that a line does not have is NULL. Lists and objects are text in JSON. It needs DuckDB:
pip install 'qmond[query]'. The SQL sees this table and nothing else: no file, no network.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from qmond.ctl.export import COLUMNS
from qmond.ctl.lines import DEFAULT_LOG, read
from qmond.ctl.text import columns, printable
from qmond.errors import QmondError
from qmond.events import COMMON, PUBLIC

__all__ = ["add_arguments", "run", "select"]

_AT_ONCE: Final = 2000
_SQL_TYPES: Final = {
    **dict.fromkeys(("integer", "integer?", "bit"), "BIGINT"),
    **dict.fromkeys(("number", "ticks"), "DOUBLE"),
    **dict.fromkeys(("true", "flag"), "BOOLEAN"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="rows as CSV")
    form.add_argument("--json", action="store_true", help="rows as lines of JSON")
    parser.add_argument("sql", metavar="SQL")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", default=[DEFAULT_LOG])


def run(options: argparse.Namespace) -> int:
    """Print the rows."""
    names, rows = select(options.sql, read(options.files))
    if options.csv:
        csv.writer(sys.stdout).writerows([names, *rows])
    elif options.json:
        for row in rows:
            sys.stdout.write(json.dumps(dict(zip(names, row, strict=True)), default=str) + "\n")
    else:
        cells = [["" if value is None else printable(str(value)) for value in row] for row in rows]
        numbers = [at for at in range(len(names)) if all(_is_number(row[at]) for row in rows)]
        sys.stdout.write(columns([[*map(printable, names)], *cells], numbers))
    return 0


def select(sql: str, events: Iterable[dict[str, Any]]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the columns' names and the rows that a query gives. Raises QmondError."""
    try:
        import duckdb  # noqa: PLC0415 - only here
    except ImportError as error:
        raise QmondError("there is no DuckDB", hint="pip install 'qmond[query]'") from error

    types = {name: _SQL_TYPES.get(kind, "VARCHAR") for name, kind in _kinds().items()}
    declared = ", ".join(f'"{name}" {types[name]}' for name in COLUMNS)
    picked = ", ".join(f'line."{name}"' for name in COLUMNS)
    insert = (
        f"INSERT INTO events SELECT {picked} "  # noqa: S608 - names from the table of events
        f"FROM (SELECT unnest(from_json(?, '[{json.dumps(types)}]')) AS line)"
    )
    with duckdb.connect(":memory:") as database:
        database.execute(f"CREATE TABLE events ({declared})")
        for lines in _packed(events):
            database.execute(insert, [lines])
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        try:
            found = database.execute(sql)
            names = [column[0] for column in found.description or ()]
            return names, found.fetchall()
        except duckdb.Error as error:
            raise QmondError(f"SQL: {str(error).strip()}") from error


def _kinds() -> dict[str, str]:
    """Return what each key is; where events differ, it is text."""
    kinds = {"ts": "number", "event": "string"}
    for field in (*COMMON, *(field for event in PUBLIC for field in event.fields)):
        kind = field.json or field.form.value
        if kinds.setdefault(field.key, kind) != kind:
            same = _SQL_TYPES.get(kinds[field.key]) == _SQL_TYPES.get(kind)
            kinds[field.key] = kind if same else "string"
    return kinds


def _packed(events: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield events as arrays of JSON, some at once."""
    left = iter(events)
    while some := list(islice(left, _AT_ONCE)):
        yield json.dumps([row | {"event": row.get("event") or row["evt"]} for row in some])


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, int | float)
