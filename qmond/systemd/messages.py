"""What the daemon says of itself: to journald, with fields, where systemd runs it; else to stderr.

Each kind of message that somebody may wait for has an ID that never changes; docs/monitoring.md
and packaging/systemd/qmond.catalog tell what to do about each.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

from qmond.systemd.journald import Field, Journald

__all__ = ["JournalHandler", "MessageId", "about", "complain", "flush", "is_in_journal", "set_up"]

_PRIORITIES: Final = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}
"""Levels as syslog(3) has them."""
_NAME: Final = "qmond"


class MessageId(StrEnum):
    """The kinds of message, as MESSAGE_ID has them; an ID stays for ever."""

    START = "1cf66ba06d56463292ce70a156cc1069"
    STOP = "576f7862e38a4ce9b733bd25602b396a"
    HANDED_OVER = "577b311301cf493cad438bd66ba4c416"
    FAILED = "2b5eb4156a4d462d91664fcdc904f61d"
    BAD_CONFIG = "868b435b4cf44f2b94f0a8edcb8f17d1"
    LOSS = "92ce7a9e26c948c29882190f94ca9892"
    LOG_FAILING = "623506c7e7a24330894c206dbd90415c"
    LOG_BACK = "998dcd72272049588844db3181ebe970"
    CLIENT_CUT_OFF = "a453c90dd2f24792ac35b8cc7042fea9"
    CLOCK_STEP = "4f4152bc1c854da29d8dde2afb0df4fc"
    EVENT = "ffa784b838c94b1dafe1abddc472e9ac"
    HELD_BACK = "fd9caf8d92d34c2baedb067225ac661e"


def about(kind: MessageId, **fields: object) -> dict[str, Any]:
    """Return `extra` for a logging call: its kind, and fields that are QMOND_… in the journal.

    A list is a field that is there several times.
    """
    return {"journal": [("MESSAGE_ID", kind), *_named(fields)]}


def _named(fields: Mapping[str, object]) -> Iterable[Field]:
    for name, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            yield f"QMOND_{name.upper()}", item


class JournalHandler(logging.Handler):
    """Sends what is logged to journald; where that is not there, to stderr as sd-daemon(3) has it.

    Stderr is the journal's, too, and the text of one line must not give another its level.
    """

    def __init__(self, journald: Journald) -> None:
        super().__init__()
        self._journald = journald

    def emit(self, record: logging.LogRecord) -> None:
        """Send one message."""
        try:
            priority = _priority(record.levelno)
            text = self.format(record)
            fields = [
                ("MESSAGE", text),
                ("PRIORITY", priority),
                ("SYSLOG_IDENTIFIER", _NAME),
                ("LOGGER", record.name),
                ("CODE_FILE", record.pathname),
                ("CODE_LINE", record.lineno),
                ("CODE_FUNC", record.funcName),
                *getattr(record, "journal", ()),
            ]
            try:
                self._journald.send(fields)
            except OSError:
                sys.stderr.writelines(f"<{priority}>{line}\n" for line in text.splitlines())
                sys.stderr.flush()
        except Exception:  # noqa: BLE001 - as logging has it: a message harms nobody
            self.handleError(record)

    def flush(self) -> None:
        """Send what had to wait."""
        self.acquire()
        try:
            with contextlib.suppress(OSError):
                self._journald.flush()
        finally:
            self.release()

    def close(self) -> None:
        """Give the way to journald back."""
        self._journald.close()
        super().close()


def _priority(level: int) -> int:
    return next((number for least, number in _PRIORITIES.items() if level >= least), 7)


def is_in_journal() -> bool:
    """Whether stderr is connected to the journal, as $JOURNAL_STREAM says: see systemd.exec(5)."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def set_up(level: str) -> None:
    """Have all that is logged go where it belongs."""
    if is_in_journal():
        handler = JournalHandler(Journald())
        logging.basicConfig(level=level, format="%(message)s", handlers=[handler])
    else:
        form = f"{_NAME}: %(levelname)s: %(message)s"
        logging.basicConfig(level=level, format=form, stream=sys.stderr)


def flush() -> None:
    """Send what journald had no room for; called now and then."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def complain(kind: MessageId, text: str, *, prefix: str = "") -> None:
    """Say why the daemon ends; a terminal has just the text, after a prefix."""
    if is_in_journal():
        logging.getLogger(__name__).critical("%s", text, extra=about(kind))
    else:
        sys.stderr.write(f"{prefix}{text}\n")
