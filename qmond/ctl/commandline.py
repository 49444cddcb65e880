"""The words of a command line: options whose value argparse takes for an option, lists, UTF-8."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from qmond.errors import ArgumentError

__all__ = ["joined", "listed", "utf8"]

_OPTIONS: Final = frozenset({"--event", "--not-event", "--since", "--until", "--wait"})
"""Options whose value may begin with a hyphen: `-SCHED_SWITCH`, `-5m`."""


def joined(words: Sequence[str]) -> list[str]:
    """Return the words with such a value joined to its option: `--event=-SCHED_SWITCH`."""
    found: list[str] = []
    end = words.index("--") if "--" in words else len(words)
    for word in words[:end]:
        is_value = word.startswith("-") and not word.startswith("--")
        if is_value and found and found[-1] in _OPTIONS:
            found[-1] += f"={word}"
        else:
            found.append(word)
    return [*found, *words[end:]]


def listed(values: Sequence[str] | None) -> list[str]:
    """Return the items of an option's values: comma-separated lists, one after another."""
    return [item for value in values or () for item in value.split(",")]


def utf8(text: str, what: str) -> str:
    """Return an argument decoded as UTF-8 where the locale could not. Raises ArgumentError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode("utf-8")
        except UnicodeError as error:
            raise ArgumentError(f"{what}: not valid UTF-8") from error
    return text
