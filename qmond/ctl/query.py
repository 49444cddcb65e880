"""Ask the logs in SQL: the table `events` has a column for each key of docs/events.md.

The files that are opened most, the bytes by process and descriptor, what is executed, who connects
where, and where time passes:

qmonctl query "SELECT file, count(*) AS n FROM events WHERE file IS NOT NULL
               GROUP BY file ORDER BY n DESC LIMIT 20"
qmonctl query "SELECT event, pid, fd, sum(len) AS bytes FROM events
               WHERE event IN ('READ', 'WRITE') GROUP BY ALL ORDER BY bytes DESC LIMIT 20"
qmonctl query "SELECT time, pid, guest, filename FROM events WHERE event = 'EXEC' ORDER BY seq"
qmonctl query "SELECT guest, addr, count(*) AS n FROM events WHERE event = 'CONNECT'
               GROUP BY ALL ORDER BY n DESC" run1.tar.gz
qmonctl query "SELECT ts - lag(ts) OVER (PARTITION BY tid ORDER BY seq) AS gap, seq, pid, event
               FROM events WHERE tid IS NOT NULL ORDER BY gap DESC NULLS LAST LIMIT 20"

A key that a line does not have is NULL; `event` has the type of every line, the statistics' too.
--tables tells the columns. Files are as for `qmonctl export`; without any it is the daemon's log.
The SQL is DuckDB's, one SELECT. It sees this table and nothing else: no file, no network; what it
has no memory for, beyond 2 GiB, goes to $TMPDIR. It needs DuckDB: pip install 'qmond[query]'.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qmond.ctl.export import DEFAULT_LOG

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="rows as CSV, guarded as by export")
    form.add_argument("--json", action="store_true", help="rows as lines of JSON")
    form.add_argument("--tables", action="store_true", help="tell the columns, and ask nothing")
    parser.add_argument("sql", nargs="?", metavar="SQL")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", default=[DEFAULT_LOG])


def run(options: argparse.Namespace) -> int:
    """Print the rows."""
    from qmond.ctl.formats import sql  # noqa: PLC0415 - no other verb needs it

    if options.tables:
        sys.stdout.write(sql.described())
        return 0
    if options.sql is None:
        options.parser.error("query: SQL is needed, or --tables")
    form = "csv" if options.csv else "json" if options.json else "text"
    with sql.answered(options.sql, options.files) as answer:
        for piece in sql.rendered(answer, form):
            sys.stdout.write(piece)
    return 0
