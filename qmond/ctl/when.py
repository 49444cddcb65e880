"""Times as people write them: `11:56`, `2026-11-23 08:30`, `yesterday`, `@1700000000`, `1h30m`.

A time without a zone is in the one that is given. Where clocks are set, it may be missing or come
twice there. Then a start is the earlier of its two readings, and an end the later one.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final

from qmond.units import parse_seconds

__all__ = ["is_time_of_day", "parse_when", "rfc3339"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCK: Final = r"(\d{1,2}):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?"
_TIME: Final = re.compile(_CLOCK, re.ASCII)
_DATE: Final = re.compile(
    rf"(\d{{4}}-\d\d-\d\d)(?:[T ]+{_CLOCK})? ?(Z|UTC|[+-]\d\d:?\d\d)?", re.ASCII | re.IGNORECASE
)
_SINCE_EPOCH: Final = re.compile(r"@(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)
_AGE: Final = re.compile(r"([+-]?)(\S+?)( ago)?", re.ASCII)
_EXPECTED: Final = (
    "a time such as 11:56, 2026-11-23, '2026-11-23 08:30', 2026-11-23T08:30:00Z, @1700000000, now, "
    "today, yesterday, or 5m, 1h30m or '2d ago', is expected"
)


def parse_when(text: str, *, now: datetime, zone: tzinfo | None, end: bool = False) -> datetime:
    """Return the moment that a text means, in UTC. Raises ValueError with what is expected.

    `zone` is that of the text, or None for the system's. `end` says that something ends then: a
    time of day is today's. Otherwise one that is yet to come is yesterday's.
    """
    try:
        found = _parse(" ".join(text.split()), now, zone, end=end)
    except (ValueError, OverflowError):
        found = None
    if found is None:
        raise ValueError(f"{_EXPECTED}, not {text!r}")
    return found


def is_time_of_day(text: str | None) -> bool:
    """Whether a text names no day, such as `11:56`."""
    return text is not None and _TIME.fullmatch(text.strip()) is not None


def rfc3339(moment: datetime) -> str:
    """Return a moment in UTC with microseconds, as the daemon writes it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _parse(text: str, now: datetime, zone: tzinfo | None, *, end: bool) -> datetime | None:
    today = now.astimezone(zone).date()
    word = text.lower()
    if word == "now":
        return now.astimezone(UTC)
    if word in {"today", "yesterday"}:
        day = today - timedelta(days=word == "yesterday")
        return _moment(day, time(), zone, end=end)
    if match := _TIME.fullmatch(text):
        clock = _clock(*match.groups())
        found = _moment(today, clock, zone, end=end)
        is_ahead = not end and found > now
        return _moment(today - timedelta(days=1), clock, zone, end=end) if is_ahead else found
    if match := _DATE.fullmatch(text):
        day, offset = date.fromisoformat(match[1]), match[6]
        clock = _clock(*match.groups()[1:5]) if match[2] else time()
        return _moment(day, clock, _zone(offset) if offset else zone, end=end)
    if match := _SINCE_EPOCH.fullmatch(text):
        return _EPOCH + timedelta(seconds=int(match[1]), microseconds=_micros(match[2]))
    if (match := _AGE.fullmatch(word)) and not (match[1] and match[3]):
        age = timedelta(seconds=parse_seconds(match[2]))
        return now.astimezone(UTC) + (age if match[1] == "+" else -age)
    return None


def _clock(hour: str, minute: str, second: str | None, fraction: str | None) -> time:
    return time(int(hour), int(minute), int(second or 0), _micros(fraction))


def _micros(fraction: str | None) -> int:
    return int((fraction or "")[:6].ljust(6, "0"))


def _zone(offset: str) -> tzinfo | None:
    if offset.upper() in {"Z", "UTC"}:
        return UTC
    return datetime.strptime(offset, "%z").tzinfo


def _moment(day: date, clock: time, zone: tzinfo | None, *, end: bool) -> datetime:
    readings = [
        datetime.combine(day, clock.replace(fold=fold)).replace(tzinfo=zone).astimezone(UTC)
        for fold in (0, 1)
    ]
    return max(readings) if end else min(readings)
