"""SQL: events as a table in DuckDB, and one SELECT over it."""

from __future__ import annotations

import json
import math
import sys
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


def _how_to_install() -> str:
    """Return the command that installs DuckDB where this interpreter finds it."""
    folder = Path(sys.prefix)
    if (folder / "bin/pip").exists():  # a checkout's environment
        return f"sudo {folder}/bin/pip install duckdb"
    if (folder.parent / "files").exists():  # script/install's, without a package
        python = f"sudo {folder}/bin/python3 -m"
        return f"{python} ensurepip && {python} pip install duckdb"
    return "sudo apt install ./qmond-query_*.deb   # script/deb builds it beside qmond's package"


try:
    import duckdb
except ImportError as _error:
    _message = "query needs DuckDB, which is not installed"
    raise QmondError(_message, hint=_how_to_install()) from _error

__all__ = ["Answer", "answered", "described", "loaded", "rendered"]

_BATCH: Final = 4000
"""Events that are inserted at once."""
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
"""The type of a column by `Field.json`, in the notation of from_json(); all others are text."""
_FORMS: Final = {
    Form.OTHER: "BIGINT",
    Form.TICKS: "DOUBLE",
    Form.BIT: "TINYINT",
    Form.FLAG: "BOOLEAN",
}
_SET_UP: Final = (
    f"SET memory_limit = '{_MEMORY}'",
    "SET python_enable_replacements = false",  # variables of this program are no tables
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
)
_LOCK: Final = ("SET enable_external_access = false", "SET lock_configuration = true")


class Answer(NamedTuple):
    """The result of a query: the names of the columns, whether each is numeric, and the rows."""

    names: list[str]
    numeric: list[bool]
    rows: Iterator[tuple[Any, ...]]


def _type(field: Field) -> Any:  # noqa: ANN401 - a type for from_json()
    if field.json:
        return _TYPES.get(field.json, "VARCHAR")
    if field.form is Form.INT:
        return "UBIGINT" if field.ctype == "u64" else "BIGINT"
    return _FORMS.get(field.form, "VARCHAR")


def _types() -> dict[str, Any]:
    """Return the type of each column. If the types in two events differ, it is HUGEINT or text."""
    types: dict[str, Any] = {"time": "TIMESTAMP"}
    for field in FIELDS:
        type_ = _type(field)
        other = types.setdefault(field.key, type_)
        if other != type_ and field.key != "time":
            integers = {other, type_} <= {"BIGINT", "UBIGINT"} if isinstance(type_, str) else False
            types[field.key] = "HUGEINT" if integers else "VARCHAR"
    return {name: types[name] for name in COLUMNS}


def _declaration(type_: Any) -> str:  # noqa: ANN401 - a type for from_json()
    if isinstance(type_, list):
        return f"{_declaration(type_[0])}[]"
    if isinstance(type_, dict):
        members = ", ".join(f"{key} {_declaration(member)}" for key, member in type_.items())
        return f"STRUCT({members})"
    return str(type_)


def described() -> str:
    """Return the columns of the table as text, one per line: name, type, meaning."""
    meanings: dict[str, str] = {}
    for field in (*COMMON, *FIELDS):
        meanings.setdefault(field.key, field.meaning)
    rows = [(name, _declaration(type_), meanings[name]) for name, type_ in _types().items()]
    return columns([("COLUMN", "TYPE", "MEANING"), *rows], ())


@contextmanager
def answered(sql: str, files: Iterable[Path]) -> Iterator[Answer]:
    """Run one SELECT over the events of files, and yield its Answer. Raises QmondError."""
    with _sql_errors(), loaded(read(files), check=sql) as database:
        result = database.execute(sql)
        described = result.description or []
        numeric = [str(column[1]) in _NUMERIC for column in described]
        yield Answer([column[0] for column in described], numeric, _rows(result))


_NUMERIC: Final = frozenset(
    f"{sign}{name}" for sign in ("", "U") for name in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
) | {"HUGEINT", "UHUGEINT", "FLOAT", "DOUBLE"}


@contextmanager
def loaded(events: Iterable[dict[str, Any]], *, check: str | None = None) -> Iterator[Any]:
    """Yield a database that has the events as a table, and no access to anything else.

    `check` is SQL whose syntax is checked before the events are read. Raises QmondError.
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
        declared = ", ".join(f'"{name}" {_declaration(type_)}' for name, type_ in types.items())
        database.execute(f"CREATE TABLE events ({declared})")
        selected = ", ".join(f'line."{name}"' for name in types)
        shape = json.dumps([types])
        insert = (
            f"INSERT INTO events SELECT {selected} "  # noqa: S608 - names from the table of events
            f"FROM (SELECT unnest(from_json(?, '{shape}')) AS line)"
        )
        for batch in _json_arrays(events):
            database.execute(insert, [batch])
        for setting in _LOCK:
            database.execute(setting)
        yield database


def _check(sql: str) -> None:
    kinds = [statement.type.name for statement in duckdb.extract_statements(sql)]
    if len(kinds) != 1 or kinds[0] not in {"SELECT", "EXPLAIN"}:
        given = ", ".join(kinds) or "nothing"
        raise QmondError(f"SQL: one SELECT is expected, not {given}", hint="qmonctl query --help")


def _json_arrays(events: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield events in batches, each a JSON array."""
    remaining = iter(events)
    while batch := list(islice(remaining, _BATCH)):
        for event in batch:
            event.setdefault("event", event.get("evt"))
        yield orjson.dumps(batch).decode()


def _rows(result: Any) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - a DuckDB result
    while rows := result.fetchmany(1000):
        yield from rows


@contextmanager
def _sql_errors() -> Iterator[None]:
    """Raise DuckDB's errors as QmondError, and its interrupt as KeyboardInterrupt."""
    try:
        yield
    except (duckdb.InterruptException, RuntimeError) as error:
        if isinstance(error, duckdb.InterruptException) or "interrupt" in str(error).lower():
            raise KeyboardInterrupt from error
        raise
    except duckdb.Error as error:
        raise QmondError(f"SQL: {_printable_lines(str(error))}") from error


def _printable_lines(text: str) -> str:
    """Return lines that cannot drive a terminal: an error may quote the data."""
    return "\n".join(printable(line) for line in text.strip().split("\n"))


# ---- the output ------------------------------------------------------------------------------


def rendered(answer: Answer, form: str) -> Iterator[str]:
    """Yield an answer as text in chunks; `form` is csv, json or text.

    It cannot drive a terminal.
    """
    if form == "csv":
        for row in csv_rows(answer.names, answer.rows, guarded=True, shown=True):
            yield row.decode()
    elif form == "json":
        for values in answer.rows:
            named = dict(zip(answer.names, map(_json_value, values), strict=True))
            yield json_bytes(named).decode() + "\n"
    else:
        rows = [
            ["" if value is None else printable(str(value)) for value in row] for row in answer.rows
        ]
        right = [at for at, numeric in enumerate(answer.numeric) if numeric]
        yield columns([[printable(name) for name in answer.names], *rows], right)


def _json_value(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON cannot express it
    return value.hex() if isinstance(value, bytes) else value
