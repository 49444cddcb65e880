"""From which line `follow` of qmond/client.py resumes after a restart of the daemon.

There are no sockets here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, TypedDict, cast

from qmond.errors import ProtocolError, QmondError, RequestError
from qmond.wire import sendable

__all__ = ["Choice", "Cursor", "is_over"]

# A quote in a JSON string is escaped. So a guest's text cannot contain these.
_SEQ: Final = re.compile(rb'"(?:to_)?seq":(\d+)')
"""The number of a line. A GAP has the number of the last missing line, `to_seq`."""
_DROPPED: Final = b'"event":"DROPPED"'
_PASSING: Final = frozenset(
    {"Failed", "Timeout", "TooManyClients", "TooManyReaders", "TooManyRequests", "TooSlow"}
)
"""The refusals that another try may not meet."""
_BEHIND_MAX: Final = 5
"""How many connects may find a daemon whose newest line is older than the last one received."""


class Choice(TypedDict, total=False):
    """The lines that `tail` selects, and where it begins.

    At most one of `from_seq`, `since` and `last` may be given.
    """

    events: Iterable[str] | None
    """Names of events."""
    pids: Iterable[int] | None
    """Process IDs."""
    tree: int | None
    """A process ID: this process and all its descendants."""
    arch: Iterable[str] | None
    """Guest architectures, such as aarch64."""
    guest: str | None
    """A glob that matches the path of the guest program."""
    where: str | None
    """A CEL expression over the keys of a line."""
    fields: Iterable[str] | None
    """The keys to keep in each line."""
    from_seq: int | None
    """The number of the first line."""
    since: str | None
    """A time (RFC 3339), or an age such as 5m."""
    until: str | None
    """End at this time, which is given likewise and may be to come."""
    last: int | None
    """How many past lines to begin with."""
    follow: bool
    """Whether to wait for new lines after the past ones; the default is true."""


class Cursor:
    """The position of a client in the lines of a Choice, across restarts of the daemon.

    After a restart of the daemon, it continues after the last line received. After a reboot of the
    host, it begins with the first line of the new boot. If the Choice has `last` or `since`, and no
    line was received yet, the same request is sent again.
    """

    def __init__(self, choice: Choice) -> None:
        self._choice = _with_lists(choice)
        self._boot_id: str | None = None
        self._last: int | None = None
        self._until: str | None = None
        self._behind = 0
        """Connects in a row that found the daemon behind."""

    def ask(self, about: dict[str, Any], changes: Choice) -> Choice:
        """Return the arguments of the next `tail`. `about` is the daemon's greeting.

        `changes` override the Choice, for this request only. Raises ProtocolError if the daemon was
        killed and has not written all lines again that it had sent; the client must connect again.
        Raises QmondError if the Choice leaves no way to continue after a restart.
        """
        choice = _with_lists(self._choice | changes)
        _check(choice)
        self._until = choice.get("until")
        newest: int = about["newest"]
        before, self._boot_id = self._boot_id, about["boot_id"]
        if before is None and (first := choice.get("from_seq")) is not None:
            self._last = first - 1
            return choice
        if before not in {None, self._boot_id}:
            self._last = 0
        elif self._last is None and not _has_start(choice):
            self._last = newest
        if self._last is None:
            return choice
        if newest >= self._last:
            self._behind = 0
        elif self._behind < _BEHIND_MAX:
            self._behind += 1
            raise ProtocolError("the daemon is still writing the lines again that it had sent")
        # With from_seq, the daemon also sends the lines in between, from the log.
        first = min(newest, self._last) + 1
        return choice | {"last": None, "since": None, "from_seq": first}

    def take(self, line: bytes) -> None:
        """Note the number of a received line. Raises QmondError if it has none."""
        if _DROPPED in line:  # it has the number of the next line
            return
        seq = _SEQ.search(line)
        if seq is None:
            raise _NoSeqError(
                "the daemon's lines have no number, which is needed to continue after a restart",
                hint="set `fields: full` in its configuration",
            )
        self._last = int(seq[1])

    def is_over(self) -> bool:
        """Whether a tail that has ended came to its `until`: otherwise the daemon has stopped."""
        return is_over(self._until)

    def may_retry(self, error: QmondError) -> bool:
        """Whether to connect again after an error.

        False before the first request, if the daemon refused it, and if lines have no number.
        """
        refused = isinstance(error, RequestError) and error.kind not in _PASSING
        return self._boot_id is not None and not refused and not isinstance(error, _NoSeqError)


def is_over(until: str | None) -> bool:
    """Whether the end of a Choice has come."""
    if until is None:
        return False
    try:
        return datetime.fromisoformat(until) <= datetime.now(UTC)
    except ValueError:  # an age
        return True


class _NoSeqError(QmondError):
    """A client with this Choice could not continue after a restart."""


def _check(choice: Choice) -> None:
    if choice.get("follow") is False:
        raise _NoSeqError("`follow` is false, but this function follows", hint="use `tail`")
    fields = choice.get("fields")
    if fields and "seq" not in fields:
        raise _NoSeqError(
            "`fields` has no seq, which is needed to continue after a restart",
            hint="add seq to `fields`",
        )


def _has_start(choice: Choice) -> bool:
    """Whether the Choice begins in the past."""
    starts = choice.get("from_seq"), choice.get("since"), choice.get("last") or None
    return any(start is not None for start in starts)


def _with_lists(choice: Choice) -> Choice:
    """Return the Choice with its iterables as lists, so that they can be sent again."""
    values: dict[str, Any] = {**choice}
    for key, value in values.items():
        if value is not None:
            values[key] = sendable(key, value)
    return cast("Choice", values)
