"""What is made from the table for readers: the JSON Schema, and the reference page.

`python -m qmond.events.schema schema` and `… page` print them; `… page FILE` prints the page as a
file translates it. `make generate` puts them in docs/.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from qmond.events.fields import Event, Field, Form, Group
from qmond.events.groups import MEANINGS, groups
from qmond.events.table import COMMON, PUBLIC, SCHEMA_VERSION
from qmond.events.words import ALLOCATIONS, LAUNCHES

__all__ = ["keys", "original_keys", "page", "schema", "shape", "table", "translation"]

_INTEGER: Final = {"type": "integer"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_STRING: Final = {"type": "string"}
_BY_EVENT: Final = {"type": "object", "additionalProperties": _COUNT}
_BY_PID: Final = {
    "type": "object",
    "propertyNames": {"pattern": "^([0-9]+|others)$"},
    "additionalProperties": _COUNT,
}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_GIVEN: Final[dict[str, dict[str, Any]]] = {
    "true": {"const": True},
    "string": _STRING,
    "string?": {"type": ["string", "null"]},
    "strings": {"type": "array", "items": _STRING},
    "integer": _INTEGER,
    "integer?": {"type": ["integer", "null"]},
    "number": {"type": "number"},
    "origin": {"enum": ["exec", "procfs"]},
    "launch": {"enum": list(LAUNCHES)},
    "allocations": {"enum": list(ALLOCATIONS)},
    "parents": {
        "type": "array",
        "items": _object({"pid": _INTEGER, "comm": _STRING}, ["pid", "comm"]),
    },
    "stage": {"enum": ["ring", "log"]},
    "by_event": _BY_EVENT,
    "calls": _object(
        {"count": _COUNT, "by_pid": _BY_PID, "partial": {"type": "array", "items": _INTEGER}},
        ["count"],
    ),
    "pages": _object(
        {"count": _COUNT, "max_pages": _COUNT, "by_pid": _BY_PID}, ["count", "max_pages"]
    ),
    "counters": {
        "type": "object",
        "additionalProperties": _object(
            dict.fromkeys(("seen", "written", "lost", "suppressed"), _COUNT),
            ["seen", "written", "lost", "suppressed"],
        ),
    },
}
_FORMS: Final[dict[Form, dict[str, Any]]] = {
    Form.INT: _INTEGER,
    Form.OTHER: _INTEGER,
    Form.TICKS: {"type": "number", "minimum": 0},
    Form.BIT: {"enum": [0, 1]},
    Form.TEXT: _STRING,
    Form.CONTENT: _STRING,
    Form.EXACT: {"type": "string", "contentEncoding": "base64"},
    Form.ADDRESS: _STRING,
    Form.ADVICE: {"type": "string", "pattern": "^MADV_[A-Z_]+$"},
    Form.FLAG: {"const": True},
    Form.CALL: _STRING,
    Form.BIN: _STRING,
}


def keys(event: Event) -> tuple[Field, ...]:
    """Return the keys of an event's lines with `fields: full`, behind those of its head."""
    left_out = set()
    if not event.thread:
        left_out.add("tid")
    if not event.process:
        left_out |= {"arch", "guest", "guest_b64", "guest_path", "guest_path_b64"}
    return (*event.fields, *(field for field in COMMON if field.key not in left_out))


def original_keys(event: Event) -> tuple[str, ...]:
    """Return the keys of an event's lines with `fields: original`, in their order."""
    kept = tuple(field.key for field in event.fields if not field.added)
    return _head(event) + kept


def _head(event: Event) -> tuple[str, ...]:
    return ("ts", "pid", "evt") if event.statistic else ("ts", "event")


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a line, with either set of keys."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A line of qmond's log and stream, version {SCHEMA_VERSION}",
        "oneOf": [_event_schema(event) for event in PUBLIC],
    }


def _event_schema(event: Event) -> dict[str, Any]:
    head: dict[str, Any] = {"ts": {"type": "number", "minimum": 0}, "pid": {"const": -1}}
    properties = {key: head.get(key, {"const": event.name}) for key in _head(event)}
    required = list(properties)
    for field in keys(event):
        properties[field.key] = shape(field) | {"description": field.meaning}
        if field in event.fields and not field.optional and not field.added:
            required.append(field.key)
    return _object(properties, required) | {"title": event.name, "description": event.when}


def shape(field: Field) -> dict[str, Any]:
    """Return the JSON Schema of a key's value."""
    return _GIVEN[field.json] if field.form is Form.GIVEN else _FORMS[field.form]


# ---- the page --------------------------------------------------------------------------------

Say = Callable[[str], str]
"""Gives a text of the page in the reader's language."""

_HEAD: Final = """\
# Events

Made from `qmond/events/table.py` by `make generate`; do not edit. The same as a JSON Schema:
[events.schema.json](events.schema.json).

Every event is one line of valid UTF-8 JSON, the same bytes in the log and on the socket. It
begins with `ts`, CLOCK_MONOTONIC in seconds with 6 decimals at the moment of the event (since START
with `timestamps: relative`), and `event`, its type; the three statistics carry their type as `evt`,
and `pid` -1. Keys marked **+** are qmond's additions to the original interface: `fields: original`
leaves them out.

At the end of each line stand, with `fields: full`, these, the last ones where they apply:
"""
_GROUPS: Final = """\
The name of a group stands for its events wherever events are named, and `-NAME` takes an event or
a group out: `events: [default, -SCHED_SWITCH]`, `--event net,EXEC`. A list that only takes out
begins with `default`. Names may be in lower case.
"""
_OWN: Final = frozenset(Group)
"""The groups whose events the page lists; those of the others show from their meaning."""


def page(say: Say = str) -> str:
    """Return the reference page, in Markdown; `say` translates each of its texts."""
    parts = [say(_HEAD), "\n", _table(COMMON, say), _groups(say)]
    for own, title in ((False, "The original's events"), (True, "qmond's own events")):
        parts.append(f"\n## {say(title)}\n")
        parts += [_section(event, say) for event in PUBLIC if event.own is own]
    for title, words in (
        ("The words of `launch`", LAUNCHES),
        ("The words of `allocations`", ALLOCATIONS),
    ):
        head = f"| {say('word')} | {say('meaning')} |"
        parts.append(f"\n## {say(title)}\n\n{head}\n|---|---|\n")
        parts += [f"| `{word}` | {say(meaning)} |\n" for word, meaning in words.items()]
    return "".join(parts)


def _groups(say: Say) -> str:
    head = f"| {' | '.join(say(title) for title in ('group', 'what is in it', 'events'))} |"
    rows = [
        f"| `{group}` | {say(MEANINGS[group])} | {', '.join(events) if group in _OWN else ''} |\n"
        for group, events in groups().items()
    ]
    return f"\n## {say('Groups')}\n\n{say(_GROUPS)}\n{head}\n|---|---|---|\n{''.join(rows)}"


def _section(event: Event, say: Say) -> str:
    when = say(f"{event.when[0].upper()}{event.when[1:]}.")
    about = f"\n### {event.name}\n\n{when}\n{say(f'From: {event.source}.')}\n\n"
    return about + (
        _table(event.fields, say) if event.fields else f"{say('No keys of its own.')}\n"
    )


def _table(fields: tuple[Field, ...], say: Say) -> str:
    rows = []
    for field in fields:
        key = f"`{field.key}`{' **+**' if field.added else ''}"
        unit = say(field.unit) if field.unit else ""
        rows.append(f"| {key} | {_type(field, say)} | {unit} | {say(field.meaning)} |\n")
    head = " | ".join(say(title) for title in ("key", "type", "unit", "meaning"))
    return f"| {head} |\n|---|---|---|---|\n" + "".join(rows)


def _type(field: Field, say: Say) -> str:
    found = shape(field)
    if "const" in found:
        return json.dumps(found["const"])
    kind = found.get("type", "")
    kinds = [kind] if isinstance(kind, str) else kind
    words = [json.dumps(value) for value in found["enum"]] if "enum" in found else kinds
    return f" {say('or')} ".join(words)


def translation(file: Path) -> dict[str, str]:
    """Return the texts of a file like docs/events.zh-CN.yaml, by the English ones."""
    import yaml  # noqa: PLC0415 - the daemon needs no translation

    entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {entry["en"]: entry["translated"] for entry in entries}


def main(arguments: list[str]) -> None:
    """Print the schema, or the page: in English, or as a file translates it."""
    match arguments:
        case ["page"]:
            sys.stdout.write(page())
        case ["page", file]:
            texts = translation(Path(file))
            sys.stdout.write(page(lambda text: texts.get(text, text)))
        case _:
            sys.stdout.write(json.dumps(schema(), indent=1) + "\n")


def table() -> list[dict[str, Any]]:
    """Return every event with its keys, as plain values."""
    return [
        {
            "name": event.name,
            "when": event.when,
            "own": event.own,
            "group": event.group,
            "fields": [_described(field) for field in keys(event)],
        }
        for event in PUBLIC
    ]


def _described(field: Field) -> dict[str, Any]:
    return {
        "key": field.key,
        "type": field.json or field.form.value,
        "unit": field.unit,
        "meaning": field.meaning,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
