"""Chosen events in the system's journal: one message an event, at most `journal.rate` a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

import orjson

from qmond.config.keys import Journal
from qmond.events.content import without_content
from qmond.events.table import NUMBER
from qmond.systemd.journald import Journald
from qmond.systemd.messages import MessageId, about

__all__ = ["Forward"]

_log = logging.getLogger(__name__)

_INFO: Final = 6
_FIELDS: Final = {
    "QMOND_EVENT": ("event", "evt"),  # statistics have their name in the latter
    "QMOND_PID": ("pid", "parent"),
    "QMOND_SEQ": ("seq",),
}
"""A message's fields. Each is taken from the first of these keys that the line has."""


class Lines(Protocol):
    """A batch of lines."""

    def select(self, mask: int, pids: frozenset[int] | None) -> tuple[bytes, int]:
        """Return those of some events and processes, and their number."""


class Forward:
    """Sends the lines of chosen events to journald, without what guests read and wrote."""

    def __init__(self, config: Journal, journald: Journald) -> None:
        self.configure(config)
        self._journald = journald
        self._room = float(config.rate)
        self._updated = time.monotonic()
        self._held_back = 0  # events that were not sent
        self._failing = False

    def configure(self, config: Journal) -> None:
        """Use another configuration from now on."""
        self._mask = sum(1 << NUMBER[name] for name in config.events)
        self._rate = config.rate

    def take(self, batch: Lines) -> None:
        """Send the chosen lines of a batch, as far as the rate allows."""
        if not self._mask:
            return
        lines, count = batch.select(self._mask, None)
        if not count:
            return
        now = time.monotonic()
        self._room = min(self._rate, self._room + (now - self._updated) * self._rate)
        self._updated = now
        chosen = lines.split(b"\n", int(self._room))[:-1]
        self._room -= len(chosen)
        self._held_back += count - len(chosen)
        for line in chosen:
            self._send(without_content(line + b"\n").rstrip(b"\n"))

    def tell(self) -> None:
        """Send messages that had to wait, and log how many events the journal did not get.

        It is called once a second.
        """
        if not self._mask:
            return
        try:
            self._journald.flush()
        except OSError as error:
            self._fail(error)
        lost, self._journald.lost = self._journald.lost, 0
        held_back, self._held_back = self._held_back, 0
        if held_back or lost:
            _log.info(
                "%d events are in the log and not in the journal: %d above journal.rate, "
                "%d that journald did not take",
                held_back + lost,
                held_back,
                lost,
                extra=about(MessageId.HELD_BACK, held_back=held_back, lost=lost),
            )

    def _send(self, line: bytes) -> None:
        found: Mapping[str, Any] = orjson.loads(line)
        fields = [
            (name, next(found[key] for key in keys if key in found))
            for name, keys in _FIELDS.items()
            if set(keys) & set(found)
        ]
        try:
            self._journald.send(
                [
                    ("MESSAGE", line),
                    ("PRIORITY", _INFO),
                    ("SYSLOG_IDENTIFIER", "qmond"),
                    ("MESSAGE_ID", MessageId.EVENT),
                    *fields,
                ]
            )
        except OSError as error:
            self._held_back += 1
            self._fail(error)
        else:
            self._failing = False

    def close(self) -> None:
        """Send and log the rest."""
        self.tell()
        self._journald.close()

    def _fail(self, error: OSError) -> None:
        if not self._failing:
            _log.warning("journal.events: there is no journald: %s", error.strerror)
        self._failing = True
