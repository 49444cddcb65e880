"""Turn events into what other programs read: a trace for Perfetto, or CSV.

qmonctl export --format perfetto -o run.pftrace qmond-record-20261123T083452
qmonctl export --format csv /var/log/qmond/events.jsonl | head
qmonctl tail --no-follow --since 5m | qmonctl export --format perfetto -o now.pftrace -

Files may be logs (.gz and .zst, too), a folder of them, or - for standard input; without any it is
the daemon's log. A trace opens in Perfetto's UI. In CSV a text that a spreadsheet would take for a
formula has an apostrophe in front.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from qmond.ctl.lines import DEFAULT_LOG, read
from qmond.ctl.perfetto import packets
from qmond.errors import QmondError
from qmond.events import COMMON, PUBLIC

__all__ = ["COLUMNS", "add_arguments", "run", "table"]

COLUMNS: Final = tuple(
    dict.fromkeys(
        ["ts", "time", "seq", "event", "pid", "tid", "arch", "guest"]
        + [field.key for event in PUBLIC for field in event.fields]
        + [field.key for field in COMMON]
    )
)
"""Every key of every event, in an order that stays."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("--format", choices=("perfetto", "csv"), required=True)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="instead of standard output"
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", default=[DEFAULT_LOG])


def run(options: argparse.Namespace) -> int:
    """Write the export."""
    events = read(options.files)
    pieces = packets(events) if options.format == "perfetto" else table(events)
    if options.output is None and options.format == "perfetto" and sys.stdout.isatty():
        raise QmondError("a trace is nothing for a terminal", hint="give a file: -o run.pftrace")
    try:
        with contextlib.ExitStack() as stack:
            out = sys.stdout.buffer
            if options.output is not None:
                out = stack.enter_context(options.output.open("wb"))
            for piece in pieces:
                out.write(piece)
            out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise QmondError(f"{error.filename or options.output}: {error.strerror}") from error
    return 0


def table(events: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """Yield a table in CSV: RFC 4180, a row for each event."""
    line = io.StringIO()
    writer = csv.writer(line)
    rows: Iterator[Iterable[object]] = (
        (_cell(event.get(key, event.get("evt") if key == "event" else None)) for key in COLUMNS)
        for event in events
    )
    writer.writerow(COLUMNS)
    yield line.getvalue().encode()
    for row in rows:
        line.seek(0)
        line.truncate()
        writer.writerow(row)
        yield line.getvalue().encode("utf-8", "replace")


def _cell(value: object) -> object:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return json.dumps(value)
    return value
