"""Checks and parses configuration values: one function for each kind of value.

A parser takes the value that YAML gives. It returns the value that the daemon uses, or raises
ValueError with a text of what is expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from qmond.config.rules import Rule, compile_pattern
from qmond.events.fields import Form
from qmond.events.groups import resolve
from qmond.events.records import PATTERN_MAX, PATTERN_WORDS
from qmond.events.table import PUBLIC, STREAM_ONLY
from qmond.units import parse_rate, parse_seconds, parse_size

__all__ = [
    "ALL_EVENTS",
    "LIMITABLE",
    "REDACTABLE",
    "Parser",
    "absolute",
    "boolean",
    "choice",
    "events",
    "group",
    "integer",
    "limits",
    "listen",
    "prefixes",
    "rate",
    "redact",
    "seconds",
    "size",
    "socket_path",
    "sync",
    "text_file",
]

Parser = Callable[[Any], Any]

LIMITABLE: Final = tuple(event.name for event in PUBLIC if event.is_limitable)
ALL_EVENTS: Final = tuple(event.name for event in PUBLIC if event.name not in STREAM_ONLY)

REDACTABLE: Final = tuple(
    event.name
    for event in PUBLIC
    if any(field.form in {Form.CONTENT, Form.TEXT} for field in event.fields)
)


def choice(*choices: str) -> Parser:
    """Return a parser of one of these words."""

    def parse(value: object) -> object:
        if value not in choices:
            raise ValueError(" or ".join(choices))
        return value

    return parse


def boolean(value: object) -> object:
    """Parse true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def integer(least: int, most: int) -> Parser:
    """Return a parser of a whole number in a range."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return value

    return parse


def size(least: int, most: int, *, power_of_two: bool = False) -> Parser:
    """Return a parser of a size in a range, such as 64M, to bytes."""

    def parse(value: object) -> int:
        size = parse_size(value)
        if not least <= size <= most or (power_of_two and size.bit_count() != 1):
            kind = "a power of two" if power_of_two else "a size"
            raise ValueError(f"{kind} from {_short(least)} to {_short(most)}")
        return size

    return parse


def _short(size: int) -> str:
    for power, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size and size % (1 << power) == 0:
            return f"{size >> power}{unit}"
    return str(size)


def seconds(least: float, most: float) -> Parser:
    """Return a parser of a time in a range, such as 30s, to seconds."""

    def parse(value: object) -> float:
        seconds = parse_seconds(value)
        if not least <= seconds <= most:
            raise ValueError(f"a time from {least:g}s to {most:g}s")
        return seconds

    return parse


def sync(value: object) -> str | float:
    """Parse `log.sync`: never, rotate, batch, or an interval such as 1s, to seconds."""
    if isinstance(value, str) and value in {"never", "rotate", "batch"}:
        return value
    try:
        return cast("float", seconds(1, 3600)(value))
    except ValueError as error:
        raise ValueError("never, rotate, batch, or a time from 1s to 3600s") from error


def rate(least: int, most: int) -> Parser:
    """Return a parser of a rate in a range, such as 1000/s."""

    def parse(value: object) -> int:
        rate = parse_rate(value)
        if not least <= rate <= most:
            raise ValueError(f"a rate from {least}/s to {most}/s")
        return rate

    return parse


def absolute(value: object) -> Path:
    """Parse an absolute path."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError("an absolute path")
    return Path(value)


def socket_path(value: object) -> Path:
    """Parse the path of a Unix socket, which leaves space for the name of its lock file."""
    path = absolute(value)
    if len(str(path).encode()) > 100:  # sun_path has 108 bytes, and the lock file is PATH.lock
        raise ValueError("a path of at most 100 bytes")
    return path


def listen(value: object) -> str | None:
    """Parse `metrics.listen`: a loopback address or a Unix socket, because there is no password."""
    if value is None:
        return None
    expected = (
        "a loopback address with a port, such as 127.0.0.1:9839 or [::1]:9839, or unix:/PATH; "
        "for access from another host, use a proxy with TLS and passwords"
    )
    if not isinstance(value, str):
        raise ValueError(expected)
    if value.startswith("unix:"):
        return f"unix:{socket_path(value.removeprefix('unix:'))}"
    found = re.fullmatch(r"(127(?:\.\d{1,3}){3}|\[::1\]):(\d{1,5})", value, re.ASCII)
    octets = found[1].split(".")[1:] if found else []
    if (
        found is None
        or not 0 < int(found[2]) < 1 << 16
        or any(int(octet) > 255 for octet in octets)
    ):
        raise ValueError(expected)
    return value


def text_file(value: object) -> Path | None:
    """Parse `metrics.textfile`; node_exporter reads only files that are named *.prom."""
    if value is None:
        return None
    if isinstance(value, str) and value.endswith(".prom"):
        return absolute(value)
    raise ValueError("an absolute path that ends in .prom")


def group(value: object) -> str:
    """Parse the name of a group, which need not exist."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][\w.-]{0,31}", value):
        raise ValueError("the name of a group")
    return value


def prefixes(least: int) -> Parser:
    """Return a parser of a list of file name prefixes, at least `least` of them."""
    longest = PATTERN_WORDS * 8

    def parse(value: object) -> tuple[str, ...]:
        rows = value if isinstance(value, list) else [None]
        if not least <= len(rows) <= PATTERN_MAX or not all(
            isinstance(row, str) and 0 < len(row.encode()) <= longest and not set("/\0") & set(row)
            for row in rows
        ):
            raise ValueError(
                f"a list of {least} to {PATTERN_MAX} file name prefixes of 1 to {longest} bytes"
            )
        return tuple(rows)

    return parse


def events(value: object) -> tuple[str, ...]:
    """Parse `all`, or a list of names of events and groups; `-NAME` takes out."""
    if value == "all":
        return ALL_EVENTS
    if not isinstance(value, list):
        raise ValueError("all, or a list of event names")
    return _named(value, ALL_EVENTS, "event names")


def _named(words: list[object], names: tuple[str, ...], what: str) -> tuple[str, ...]:
    try:
        return tuple(resolve(map(str, words), names))
    except ValueError as error:
        raise ValueError(f"{what}; {error}") from error


def limits(value: object) -> tuple[tuple[str, int], ...]:
    """Parse a mapping of event names to rates; the name of a group is for each of its events.

    If several names stand for an event, that of the fewest events counts.
    """
    if not isinstance(value, dict):
        raise ValueError("a mapping of event names to rates, such as SCHED_SWITCH: 1000/s")
    parse = rate(1, 1_000_000_000)
    found = []
    for name in value:
        if str(name).startswith("-"):
            raise ValueError(f"names of events and groups; not {name}")
        events = _named([name], LIMITABLE, "events that may be limited")
        try:
            found.append((events, parse(value[name])))
        except ValueError as error:
            raise ValueError(f"for each event {error}") from error
    found.sort(key=lambda row: -len(row[0]))
    rates = {name: most for events, most in found for name in events}
    return tuple((name, rates[name]) for name in LIMITABLE if name in rates)


def redact(value: object) -> tuple[Rule, ...]:
    """Parse a list of patterns, or of mappings with a pattern and where it applies."""
    if not isinstance(value, list):
        raise ValueError("a list of patterns, or of mappings of pattern, events, guest, path")
    rules = []
    for item in value:
        row = {"pattern": item} if isinstance(item, str) else item
        if not isinstance(row, dict) or set(row) - {"pattern", "events", "guest", "path"}:
            raise ValueError(f"patterns, or mappings of pattern, events, guest, path; not {item!r}")
        events = row.get("events", [])
        texts = [row.get("pattern"), row.get("guest", ""), row.get("path", "")]
        if not all(isinstance(text, str) for text in texts) or not isinstance(events, list):
            raise ValueError(f"pattern, guest and path as texts, events as a list; not {item!r}")
        events = _named(events, REDACTABLE, "events with a text")
        try:
            compile_pattern(row["pattern"])
        except ValueError as error:
            raise ValueError(f"patterns of RE2; {row['pattern']!r}: {error}") from error
        rules.append(Rule(row["pattern"], events, texts[1], texts[2]))
    return tuple(rules)
