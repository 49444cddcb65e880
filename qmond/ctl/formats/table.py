"""CSV: events as a table that has a column for each key of any event."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from qmond.ctl.show.text import printable
from qmond.escape import json_bytes
from qmond.events.table import FIELDS

__all__ = ["COLUMNS", "cell", "csv_rows", "table"]

COLUMNS: Final = tuple(
    dict.fromkeys(
        ["ts", "time", "seq", "event", "pid", "tid", "arch", "guest"]
        + [field.key for field in FIELDS if field.key != "evt"]
    )
)
"""Every key of every event, in a fixed order; the column `event` also has the values of `evt`."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Characters that begin a formula in a spreadsheet; the last four are full-width forms."""


def table(
    events: Iterable[dict[str, Any]], *, guarded: bool = True, shown: bool = False
) -> Iterator[bytes]:
    """Yield CSV with a row for each event. `guarded` and `shown` are those of `csv_rows`."""
    rows = (
        [
            event.get("event") or event["evt"] if key == "event" else event.get(key)
            for key in COLUMNS
        ]
        for event in events
    )
    return csv_rows(COLUMNS, rows, guarded=guarded, shown=shown)


def csv_rows(
    names: Sequence[str], rows: Iterable[Sequence[object]], *, guarded: bool, shown: bool
) -> Iterator[bytes]:
    """Yield CSV (RFC 4180), with a header.

    `guarded`: put an apostrophe before a text that a spreadsheet would take for a formula.
    `shown`: escape control characters, so that the output cannot drive a terminal.
    """
    line = io.StringIO(newline="")
    writer = csv.writer(line)
    for row in chain([names], rows):
        line.seek(0)
        line.truncate()
        writer.writerow([cell(value, guarded=guarded, shown=shown) for value in row])
        yield line.getvalue().encode("utf-8", "replace")


def cell(value: object, *, guarded: bool, shown: bool) -> object:
    """Return the value of a cell: numbers unchanged, lists and objects as JSON."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    if isinstance(value, str):
        if guarded and value.startswith(_FORMULA):
            value = f"'{value}"
        return printable(value) if shown else value
    return json_bytes(value).decode()
