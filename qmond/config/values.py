"""Checks and parses configuration values: one function for each kind of value.

A parser takes the value that YAML gives. It returns the value that the daemon uses, or raises
ValueError with a text of what is expected. For lists and mappings it raises ItemsError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from qmond.config.rules import Rule, compile_pattern
from qmond.events.fields import Form
from qmond.events.groups import groups, resolve
from qmond.events.records import PATTERN_MAX, PATTERN_WORDS
from qmond.events.table import PUBLIC, STREAM_ONLY
from qmond.units import parse_rate, parse_seconds, parse_size

__all__ = [
    "ALL_EVENTS",
    "LIMITABLE",
    "REDACTABLE",
    "ItemFault",
    "ItemsError",
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


@dataclass(frozen=True, slots=True)
class ItemFault:
    """What is expected of an item. `path` leads to it: indices in lists, keys in mappings.

    If the fault is the last key of the path itself, `is_key` is true.
    """

    path: tuple[Any, ...]
    expected: str
    is_key: bool = False


class ItemsError(ValueError):
    """The faults of the items of a list or mapping."""

    def __init__(self, faults: list[ItemFault]) -> None:
        super().__init__("; ".join(fault.expected for fault in faults))
        self.faults = faults


def _each(items: Iterable[tuple[Any, Any, Parser]]) -> list[Any]:
    """Parse items, each given with its place and its parser. Raises ItemsError with all faults."""
    parsed, faults = [], []
    for at, item, parse in items:
        try:
            parsed.append(parse(item))
        except ItemsError as error:
            faults += [ItemFault((at, *f.path), f.expected, f.is_key) for f in error.faults]
        except ValueError as error:
            faults.append(ItemFault((at,), str(error)))
    if faults:
        raise ItemsError(faults)
    return parsed


def _each_of(items: list[Any], parse: Parser) -> list[Any]:
    return _each((at, item, parse) for at, item in enumerate(items))


def _check_keys(value: dict[Any, Any], known: Iterable[str], what: str) -> None:
    faults = [
        ItemFault((key,), f"{what}: {', '.join(known)}", is_key=True)
        for key in value
        if key not in known
    ]
    if faults:
        raise ItemsError(faults)


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
    if not isinstance(value, str) or not value.startswith("/") or "\0" in _text(value):
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

    def parse(value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not least <= len(value) <= PATTERN_MAX:
            raise ValueError(f"a list of {least} to {PATTERN_MAX} file name prefixes")
        return tuple(_each_of(value, _prefix))

    return parse


def _prefix(value: object) -> str:
    longest = PATTERN_WORDS * 8
    text = _text(value)
    if not 0 < len(text.encode()) <= longest or set("/\0") & set(text):
        raise ValueError(f"a file name prefix of 1 to {longest} bytes, without /")
    return text


def _text(value: object) -> str:
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("a text")
    return value


def events(value: object) -> tuple[str, ...]:
    """Parse `all`, or a list of names of events and groups; `-NAME` takes out."""
    if value == "all":
        return ALL_EVENTS
    if not isinstance(value, list):
        raise ValueError("all, or a list of event names")
    return _resolved(_each_of(value, _word(ALL_EVENTS)), ALL_EVENTS)


def _word(names: tuple[str, ...]) -> Parser:
    """Return a parser of an event or a group that has some of `names`; `-` may be before it."""

    def parse(value: object) -> str:
        text = str(value)
        if not _is_word(text.removeprefix("-"), names):
            import difflib  # noqa: PLC0415 - only for a fault

            close = difflib.get_close_matches(text[:40].upper(), names, 1)
            which = ", ".join([*groups(names), *names])
            raise ValueError(
                f"an event or a group, {f'such as {close[0]}' if close else f'one of {which}'}"
            )
        return text

    return parse


def _is_word(text: str, names: tuple[str, ...]) -> bool:
    return text.upper() in names or text.lower() in groups(names)


def _resolved(words: list[str], names: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(resolve(words, names))
    except ValueError as error:
        raise ValueError("names that leave an event") from error


def limits(value: object) -> tuple[tuple[str, int], ...]:
    """Parse a mapping of event names to rates; the name of a group is for each of its events.

    If several names stand for an event, that of the fewest events counts.
    """
    if not isinstance(value, dict):
        raise ValueError("a mapping of event names to rates, such as SCHED_SWITCH: 1000/s")
    known = [*groups(LIMITABLE), *LIMITABLE]
    wrong = [key for key in value if not _is_word(str(key), LIMITABLE)]
    _check_keys(dict.fromkeys(wrong), known, "events or groups that may be limited")
    rates = _each((key, item, rate(1, 1_000_000_000)) for key, item in value.items())
    rows = [(resolve([str(key)], LIMITABLE), most) for key, most in zip(value, rates, strict=True)]
    rows.sort(key=lambda row: -len(row[0]))
    found = {name: most for events, most in rows for name in events}
    return tuple((name, found[name]) for name in LIMITABLE if name in found)


def redact(value: object) -> tuple[Rule, ...]:
    """Parse a list of patterns, or of mappings with a pattern and where it applies."""
    if not isinstance(value, list):
        raise ValueError("a list of patterns, or of mappings of pattern, events, guest, path")
    return tuple(_each_of(value, _rule))


def _rule(value: object) -> Rule:
    if isinstance(value, str):
        return Rule(_pattern(value))
    if not isinstance(value, dict):
        raise ValueError("a pattern, or a mapping of pattern, events, guest, path")
    _check_keys(value, _RULE, "keys")
    if "pattern" not in value:
        raise ValueError("a mapping with a pattern")
    parsed = _each((key, item, _RULE[key]) for key, item in value.items())
    return Rule(**dict(zip(value, parsed, strict=True)))


def _pattern(value: object) -> str:
    text = _text(value)
    try:
        compile_pattern(text)
    except ValueError as error:
        raise ValueError(f"a pattern of RE2: {error}") from error
    return text


def _redactable(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("a list of event names")
    return _resolved(_each_of(value, _word(REDACTABLE)), REDACTABLE)


_RULE: Final[dict[str, Parser]] = {
    "pattern": _pattern,
    "events": _redactable,
    "guest": _text,
    "path": _text,
}
"""The parsers of a rule's keys."""
