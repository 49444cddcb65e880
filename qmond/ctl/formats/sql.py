"""Events as a table of DuckDB, and one SELECT over it."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from qmond.ctl.formats.lines import read
from qmond.ctl.formats.table import COLUMNS, csv_rows
from qmond.ctl.show.text import columns, printable
from qmond.errors import QmondError
from qmond.escape import json_bytes
from qmond.events.fields import Field, Form
from qmond.events.table import COMMON, FIELDS

try:
    import duckdb
except ImportError as _error:
    raise QmondError(
        "query needs DuckDB, which is not installed", hint="pip install 'qmond[query]'"
    ) from _error

__all__ = ["Answer", "answered", "described", "loaded", "rendered"]

_AT_ONCE: Final = 4000
_MEMORY: Final = "2GiB"
_TYPES: Final[dict[str, Any]] = {
    "integer": "BIGINT",
    "integer?": "BIGINT",
    "number": "DOUBLE",
    "true": "BOOLEAN",
    "strings": ["VARCHAR"],
    "parents": [{"pid": "BIGINT", "comm": "VARCHAR"}],
    "by_event": "MAP(VARCHAR, UBIGINT)",
    **dict.fromkeys(("calls", "pages", "counters"), "JSON"),
}
"""The column of what the daemon gives, as from_json() has it; all else is text."""
_FORMS: Final = {Form.TICKS: "DOUBLE", Form.BIT: "TINYINT", Form.FLAG: "BOOLEAN"}
_SET_UP: Final = (
    f"SET memory_limit = '{_MEMORY}'",
    "SET python_enable_replacements = false",  # no variable of this program is a table
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
)
_LOCK: Final = ("SET enable_external_access = false", "SET lock_configuration = true")


class Answer(NamedTuple):
    """The columns of an answer, which are numbers, and its rows."""

    names: list[str]
    numeric: list[bool]
    rows: Iterator[tuple[Any, ...]]


def _type(field: Field) -> Any:  # noqa: ANN401 - a type as from_json() has it
    if field.json:
        return _TYPES.get(field.json, "VARCHAR")
    if field.form is Form.INT:
        return "UBIGINT" if field.ctype == "u64" else "BIGINT"
    return _FORMS.get(field.form, "VARCHAR")


def _types() -> dict[str, Any]:
    """Return each column's type; where events differ, it is the wider one, or text."""
    found: dict[str, Any] = {"time": "TIMESTAMP"}
    for field in FIELDS:
        kind = _type(field)
        before = found.setdefault(field.key, kind)
        if before != kind and field.key != "time":
            integers = {before, kind} <= {"BIGINT", "UBIGINT"} if isinstance(kind, str) else False
            found[field.key] = "HUGEINT" if integers else "VARCHAR"
    return {name: found[name] for name in COLUMNS}


def _declared(kind: Any) -> str:  # noqa: ANN401 - a type as from_json() has it
    if isinstance(kind, list):
        return f"{_declared(kind[0])}[]"
    if isinstance(kind, dict):
        return f"STRUCT({', '.join(f'{key} {_declared(of)}' for key, of in kind.items())})"
    return str(kind)


def described() -> str:
    """Return the table's columns as a person reads them: name, type, meaning."""
    meanings: dict[str, str] = {}
    for field in (*COMMON, *FIELDS):
        meanings.setdefault(field.key, field.meaning)
    rows = [(name, _declared(kind), meanings[name]) for name, kind in _types().items()]
    return columns([("COLUMN", "TYPE", "MEANING"), *rows], ())


@contextmanager
def answered(sql: str, files: Iterable[Path]) -> Iterator[Answer]:
    """Give the answer to one SELECT over the events of files. Raises QmondError."""
    with _told(), loaded(read(files), check=sql) as database:
        found = database.execute(sql)
        described = found.description or []
        numeric = [str(column[1]) in _NUMERIC for column in described]
        yield Answer([column[0] for column in described], numeric, _rows(found))


_NUMERIC: Final = frozenset(
    f"{sign}{name}" for sign in ("", "U") for name in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
) | {"HUGEINT", "UHUGEINT", "FLOAT", "DOUBLE"}


@contextmanager
def loaded(events: Iterable[dict[str, Any]], *, check: str | None = None) -> Iterator[Any]:
    """Give a database with the table of these events, which can reach nothing else.

    `check` is looked at before, so that a typing error costs no reading. Raises QmondError.
    """
    with (
        tempfile.TemporaryDirectory(prefix="qmond-query-") as folder,
        duckdb.connect(":memory:", config={"temp_directory": folder}) as database,
    ):
        for setting in _SET_UP:
            database.execute(setting)
        if check is not None:
            _check(check)
        types = _types()
        declared = ", ".join(f'"{name}" {_declared(kind)}' for name, kind in types.items())
        database.execute(f"CREATE TABLE events ({declared})")
        picked = ", ".join(f'line."{name}"' for name in types)
        shape = json.dumps([types])
        insert = (
            f"INSERT INTO events SELECT {picked} "  # noqa: S608 - names from the table of events
            f"FROM (SELECT unnest(from_json(?, '{shape}')) AS line)"
        )
        for lines in _packed(events):
            database.execute(insert, [lines])
        for setting in _LOCK:
            database.execute(setting)
        yield database


def _check(sql: str) -> None:
    kinds = [statement.type.name for statement in duckdb.extract_statements(sql)]
    if len(kinds) != 1 or kinds[0] not in {"SELECT", "EXPLAIN"}:
        what = ", ".join(kinds) or "nothing"
        raise QmondError(f"SQL: one SELECT is expected, not {what}", hint="qmonctl query --help")


def _packed(events: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield events as arrays of JSON, many at once."""
    left = iter(events)
    while some := list(islice(left, _AT_ONCE)):
        for event in some:
            event.setdefault("event", event.get("evt"))
        yield orjson.dumps(some).decode()


def _rows(found: Any) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - a DuckDB result
    while some := found.fetchmany(1000):
        yield from some


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (duckdb.InterruptException, RuntimeError) as error:
        if isinstance(error, duckdb.InterruptException) or "interrupt" in str(error).lower():
            raise KeyboardInterrupt from error
        raise
    except duckdb.Error as error:
        raise QmondError(f"SQL: {printable_lines(str(error))}") from error


def printable_lines(text: str) -> str:
    """Return lines of which none drives a terminal: an error repeats what is in the data."""
    return "\n".join(printable(line) for line in text.strip().split("\n"))


# ---- what is printed -------------------------------------------------------------------------


def rendered(answer: Answer, form: str) -> Iterator[str]:
    """Yield an answer as csv, json or text; nothing in it drives a terminal."""
    if form == "csv":
        for row in csv_rows(answer.names, answer.rows, guarded=True, shown=True):
            yield row.decode()
    elif form == "json":
        for values in answer.rows:
            found = dict(zip(answer.names, map(_plain, values), strict=True))
            yield json_bytes(found).decode() + "\n"
    else:
        rows = [
            ["" if value is None else printable(str(value)) for value in row] for row in answer.rows
        ]
        right = [at for at, numeric in enumerate(answer.numeric) if numeric]
        yield columns([[printable(name) for name in answer.names], *rows], right)


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    return value.hex() if isinstance(value, bytes) else value
