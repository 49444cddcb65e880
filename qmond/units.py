"""Parsers of sizes, times and rates as people write them: `64M`, `30s`, `1000/s`."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parse_rate", "parse_seconds", "parse_size"]

_SIZES: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_TIME: Final = "".join(rf"(?:(\d{{1,9}}(?:\.\d{{1,6}})?){unit})?" for unit in _SECONDS)


def parse_size(value: object) -> int:
    """Parse `4096`, `64K`, `64M` or `1G` to bytes; K is 1024. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,15})([KMGT]?)", _text(value), re.ASCII)
    if match is None:
        raise ValueError("a size such as 4096, 64K or 8M")
    return int(match[1]) * _SIZES[match[2]]


def parse_seconds(value: object) -> float:
    """Parse `250ms`, `1s`, `5m`, `7d` or `1h30m` to seconds. Raises ValueError."""
    match = re.fullmatch(_TIME, _text(value), re.ASCII)
    if match is None or not match[0]:
        raise ValueError("a time such as 250ms, 1s, 5m, 7d or 1h30m")
    numbers = zip(match.groups(), _SECONDS.values(), strict=True)
    return sum(float(number) * unit for number, unit in numbers if number)


def parse_rate(value: object) -> int:
    """Parse `1000/s` to a number per second. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,12})/s", _text(value), re.ASCII)
    if match is None:
        raise ValueError("a rate such as 1000/s")
    return int(match[1])


def _text(value: object) -> str:
    is_plain = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value) if is_plain else ""
