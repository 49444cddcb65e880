"""Query the logs in SQL: the table `events` has a column for each key of docs/events.md.

The most opened files, the bytes by process and descriptor, the executed programs, the connections,
and the longest gaps between events of a thread:

qmonctl query "SELECT file, count(*) AS n FROM events WHERE file IS NOT NULL
               GROUP BY file ORDER BY n DESC LIMIT 20"
qmonctl query "SELECT event, pid, fd, sum(len) AS bytes FROM events
               WHERE event IN ('READ', 'WRITE') GROUP BY ALL ORDER BY bytes DESC LIMIT 20"
qmonctl query "SELECT time, pid, guest, filename FROM events WHERE event = 'EXEC' ORDER BY seq"
qmonctl query "SELECT guest, addr, count(*) AS n FROM events WHERE event = 'CONNECT'
               GROUP BY ALL ORDER BY n DESC" run1.tar.gz
qmonctl query "SELECT ts - lag(ts) OVER (PARTITION BY tid ORDER BY seq) AS gap, seq, pid, event
               FROM events WHERE tid IS NOT NULL ORDER BY gap DESC NULLS LAST LIMIT 20"

A key that a line does not have is NULL. `event` is the type of every line, also of statistics.
--tables lists the columns. FILE is as for `qmonctl export`. The SQL is DuckDB's: one SELECT, which
sees this table and nothing else, neither files nor the network. What exceeds 2 GiB of memory goes
to $TMPDIR. It needs DuckDB, which is in the package qmond-query; if DuckDB is missing, query says
which command installs it.
"""

from __future__ import annotations

import argparse
import sys

from qmond.ctl.commandline import utf8
from qmond.ctl.export import add_files
from qmond.ctl.interrupts import clean_up_on_ctrl_c
from qmond.errors import ArgumentError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--csv", action="store_true", help="print CSV, with formulas escaped as by export"
    )
    form.add_argument("--json", action="store_true", help="print lines of JSON")
    form.add_argument("--tables", action="store_true", help="list the columns")
    parser.add_argument("sql", nargs="?", metavar="SQL", help="one SELECT over the table `events`")
    add_files(parser)


def run(options: argparse.Namespace) -> int:
    """Print the rows."""
    from qmond.ctl.formats import sql  # noqa: PLC0415 - no other verb needs it

    if options.tables:
        sys.stdout.write(sql.described())
        return 0
    if options.sql is None:
        raise ArgumentError("SQL or --tables is required")
    text = utf8(options.sql, "SQL")
    clean_up_on_ctrl_c()  # the folder of what exceeds the memory
    form = "csv" if options.csv else "json" if options.json else "text"
    with sql.answered(text, options.files) as answer:
        for chunk in sql.rendered(answer, form):
            if options.json:  # it is UTF-8 in any locale
                sys.stdout.buffer.write(chunk.encode())
            else:
                sys.stdout.write(chunk)
    return 0
