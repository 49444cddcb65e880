"""The daemon's own messages: to journald with fields under systemd, otherwise to stderr.

Each kind of message that a program may wait for has a MESSAGE_ID that never changes.
docs/monitoring.md lists them, and packaging/systemd/qmond.catalog says what to do about each.
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
"""The priorities of syslog(3), by logging level."""
_NAME: Final = "qmond"


class MessageId(StrEnum):
    """The kinds of message, by MESSAGE_ID. An ID never changes."""

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
    """Return `extra` for a logging call: the kind, and fields, which are QMOND_… in the journal.

    A field whose value is a list is sent once for each item.
    """
    return {"journal": [("MESSAGE_ID", kind), *_named(fields)]}


def _named(fields: Mapping[str, object]) -> Iterable[Field]:
    for name, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            yield f"QMOND_{name.upper()}", item


class JournalHandler(logging.Handler):
    """Sends log records to journald, or to stderr with sd-daemon(3)'s levels if there is none.

    Each line on stderr gets its own level, so that a newline in a message cannot forge one.
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
        except Exception:  # noqa: BLE001 - as logging's own handlers: a message must not end the daemon
            self.handleError(record)

    def flush(self) -> None:
        """Send the messages that wait for journald."""
        self.acquire()
        try:
            with contextlib.suppress(OSError):
                self._journald.flush()
        finally:
            self.release()

    def close(self) -> None:
        """Close the socket to journald."""
        self._journald.close()
        super().close()


def _priority(level: int) -> int:
    return next((number for least, number in _PRIORITIES.items() if level >= least), 7)


def is_in_journal() -> bool:
    """Whether stderr goes to the journal, by $JOURNAL_STREAM: see systemd.exec(5)."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def set_up(level: str) -> None:
    """Send all log records to the journal or to stderr, from this level on."""
    if is_in_journal():
        handler = JournalHandler(Journald())
        logging.basicConfig(level=level, format="%(message)s", handlers=[handler])
    else:
        form = f"{_NAME}: %(levelname)s: %(message)s"
        logging.basicConfig(level=level, format=form, stream=sys.stderr)


def flush() -> None:
    """Send the messages that wait for journald; called periodically."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def complain(kind: MessageId, text: str, *, prefix: str = "") -> None:
    """Report why the daemon ends. Outside of the journal, this is just the text after a prefix."""
    if is_in_journal():
        logging.getLogger(__name__).critical("%s", text, extra=about(kind))
    else:
        sys.stderr.write(f"{prefix}{text}\n")
