"""Events as people name them: by name, by group, and `-NAME` for all but these."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from qmond.events.fields import Group
from qmond.events.table import BY_NAME, PUBLIC

__all__ = ["MEANINGS", "groups", "resolve"]

MEANINGS: Final = {
    "all": "every event",
    "default": "the events that are recorded by default: all",
    "original": "the events of the original interface",
    Group.PROCESS: "how processes start and end, and what they execute",
    Group.IDENTITY: "as which user a process acts",
    Group.FILE: "files and descriptors",
    Group.NET: "sockets",
    Group.MEMORY: "protection of memory, advice, and the statistics",
    Group.SIGNAL: "signals",
    Group.SCHED: "context switches, by far the most frequent event",
    Group.DAEMON: "the daemon and the clock",
    Group.LOSS: "events that did not get through",
}
"""What is in each group."""
_PUBLIC: Final = tuple(event.name for event in PUBLIC)


def groups(names: Iterable[str] = _PUBLIC) -> dict[str, list[str]]:
    """Return each group that has some of these events, with them."""
    found: dict[str, list[str]] = {group: [] for group in MEANINGS}
    for name in names:
        found["all"].append(name)
        found["default"].append(name)
        if event := BY_NAME.get(name):  # a daemon of a later version has others
            if not event.own:
                found["original"].append(name)
            if event.group:
                found[event.group].append(name)
    return {group: events for group, events in found.items() if events}


def resolve(words: Iterable[str], names: Iterable[str] = _PUBLIC) -> list[str]:
    """Return the events that `words` stand for, in any case; they are of `names`, in this order.

    What `-WORD` takes out is not in the result. Where all words are such, they take out of
    `default`. Raises ValueError where a word is unknown, or where no event is left.
    """
    names, words = list(names), list(dict.fromkeys(words))
    if not words:
        return []
    meant = groups(names) | {name: [name] for name in names}

    def events(word: str) -> list[str]:
        word = word.removeprefix("-")
        return meant.get(word.upper()) or meant.get(word.lower()) or []

    if "" in words or "-" in words:
        raise ValueError("an empty name")
    if unknown := [word.removeprefix("-") for word in words if not events(word)]:
        close = dict.fromkeys(match for word in unknown for match in _close(word, meant))
        perhaps = f", perhaps {' or '.join(close)}" if close else ""
        raise ValueError(
            f"unknown: {', '.join(unknown)}{perhaps}; there are the groups "
            f"{', '.join(groups(names))}; and the events {', '.join(names)}"
        )
    included = [word for word in words if not word.startswith("-")]
    excluded = [word for word in words if word.startswith("-")]
    chosen = {name for word in included or ["default"] for name in events(word)}
    chosen -= {name for word in excluded for name in events(word)}
    if not chosen:
        raise ValueError(f"no event is left: {', '.join(words)}")
    return [name for name in names if name in chosen]


def _close(word: str, names: Iterable[str]) -> list[str]:
    """Return the names that are most like a word, in any case."""
    by_case = {name.upper(): name for name in names}
    return [by_case[match] for match in get_close_matches(word.upper(), by_case)]
