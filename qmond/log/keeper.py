"""Keeps the log (writer.py) for the daemon: counts what is not written, reports a failure once."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from qmond.errors import InUseError, LogError
from qmond.log.files import Position
from qmond.log.writer import EventLog
from qmond.systemd.messages import MessageId, about

__all__ = ["LogKeeper"]

_log = logging.getLogger(__name__)

_RECOVERED: Final = 2.0
"""Seconds without a failure until the log is said to be written again."""


class LogKeeper:
    """Writes the log and never raises; the caller counts unwritten events in `not_logged`."""

    def __init__(self, log: EventLog, not_logged: Counter[str]) -> None:
        self.failing = False
        self.path = log.path
        self._log = log
        self._not_logged = not_logged
        self._missing = 0
        self._good_since = math.inf

    def write(self, lines: bytes | memoryview) -> bool:
        """Append complete lines; returns whether all are in the log. Otherwise none is."""
        written = self._works(self._log.write, lines)
        if written:
            self._note_success()
        return written

    @property
    def end(self) -> Position:
        """Where the log ends."""
        return self._log.end

    def describe(self) -> dict[str, Any]:
        """Return what `status` says of the log."""
        return self._log.describe() | {"failing": self.failing}

    def rotate(self) -> Path | None:
        """Begin a new file, and return the old one's path. Raises LogError."""
        return self._log.rotate()

    def check(self) -> None:
        """Do the log's periodic work; called about once a second."""
        blocked = self._log.blocked
        if self._works(self._log.check) and blocked and not self._log.blocked:
            self._note_success()  # nothing may come for long that shows it by being written
        if self.failing and time.monotonic() - self._good_since > _RECOVERED:
            missing = self._not_logged.total() - self._missing
            _log.warning(
                "the log is written again, %d events are missing from it",
                missing,
                extra=about(MessageId.LOG_BACK, stage="log", lost=missing),
            )
            self.failing = False

    def _note_success(self) -> None:
        if self._good_since == math.inf:
            self._good_since = time.monotonic()

    def reopen(self) -> None:
        """Begin a new file if another program has renamed or removed the log's."""
        self._works(self._log.reopen)

    def _works(self, call: Callable[..., None], *arguments: Any) -> bool:  # noqa: ANN401
        try:
            call(*arguments)
        except (LogError, InUseError) as error:
            if not self.failing:
                _log.error(
                    "the log cannot be written, events are lost: %s",
                    error,
                    extra=about(MessageId.LOG_FAILING, stage="log"),
                )
                self._missing = self._not_logged.total()
            self.failing = True
            self._good_since = math.inf
            return False
        return True
