"""Which lines a client asks for, and which when the daemon is back: without a socket."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, TypedDict, cast

from qmond.errors import ProtocolError, QmondError, RequestError

__all__ = ["Choice", "Cursor"]

# A text in JSON has no quote without a backslash before it: no guest can write these.
_NUMBER: Final = re.compile(rb'"(?:to_)?seq":(\d+)')
"""A line's number; a GAP has that of the last line that is gone."""
_DROPPED: Final = b'"event":"DROPPED"'
_CATCHING_UP: Final = 5
"""How often a daemon may be found behind where it was."""


class Choice(TypedDict, total=False):
    """Which lines `tail` gives, and from when on; at most one of the last three before `follow`."""

    events: Iterable[str] | None
    """Names of events."""
    pids: Iterable[int] | None
    tree: int | None
    """A process, and all its descendants."""
    arch: Iterable[str] | None
    """Guest architectures, such as aarch64."""
    guest: str | None
    """A glob for the guest program's path."""
    where: str | None
    """An expression in CEL over the line's keys."""
    fields: Iterable[str] | None
    """The keys that a line keeps."""
    from_seq: int | None
    """The number of the first line."""
    since: str | None
    """A moment (RFC 3339), or an age such as 5m."""
    last: int | None
    """How many lines of the past."""
    follow: bool
    """Whether to go on with what comes, which is so where nothing is said."""


class Cursor:
    """Where a client is in the lines of a choice, across restarts of the daemon.

    In the same boot of the host it goes on after the last line, in another one it begins with the
    first. As long as no line has come of a past that was asked for, it asks for the same again.
    """

    def __init__(self, choice: Choice) -> None:
        self._choice = _with_lists(choice)
        self._boot_id: str | None = None
        self._last: int | None = None
        self._behind = 0
        """How often a daemon was found behind, since the last line."""

    def ask(self, about: dict[str, Any], changes: Choice) -> Choice:
        """Return what to ask a daemon for that greeted with this; `changes` go over the choice.

        Raises ProtocolError as long as a daemon that was killed may still do again what it had
        sent, QmondError for what cannot be gone on with.
        """
        choice = _with_lists(self._choice | changes)
        _check(choice)
        newest: int = about["newest"]
        if self._boot_id not in {None, about["boot_id"]}:
            self._last = 0
        elif self._last is None and not _has_start(choice):
            self._last = newest
        self._boot_id = about["boot_id"]
        if self._last is None:
            return choice
        if newest < self._last and self._behind < _CATCHING_UP:
            self._behind += 1
            raise ProtocolError("the daemon is not yet where it was")
        # by its number: then the log gives what came meanwhile, or too fast
        first = min(newest, self._last) + 1
        return choice | {"last": None, "since": None, "from_seq": first}

    def take(self, line: bytes) -> None:
        """Take note of a line that has come. Raises QmondError where it has no number."""
        self._behind = 0
        if _DROPPED in line:  # it has the number of the next line
            return
        found = _NUMBER.search(line)
        if found is None:
            raise _NoPlaceError(
                "the daemon's lines have no number: where to go on would be unknown",
                hint="set `fields: full` in its configuration",
            )
        self._last = int(found[1])

    def may_retry(self, error: QmondError) -> bool:
        """Say whether it is worth another try: not at first, and not where something is refused."""
        return self._boot_id is not None and not isinstance(error, RequestError | _NoPlaceError)


class _NoPlaceError(QmondError):
    """What is asked for does not tell where to go on."""


def _check(choice: Choice) -> None:
    if choice.get("follow") is False:
        raise _NoPlaceError("without `follow` there is nothing to come back to", hint="use `tail`")
    fields = choice.get("fields")
    if fields and "seq" not in fields:
        raise _NoPlaceError("the number of a line tells where to go on", hint="add seq to `fields`")


def _has_start(choice: Choice) -> bool:
    """Say whether it begins in the past."""
    given = choice.get("from_seq"), choice.get("since"), choice.get("last") or None
    return any(start is not None for start in given)


def _with_lists(choice: Choice) -> Choice:
    """Return it with lists for what it has several of: an iterator would be empty the next time."""
    values: dict[str, Any] = {**choice}
    for key, value in values.items():
        if value is not None and not isinstance(value, str | int):
            values[key] = list(value)
    return cast("Choice", values)
