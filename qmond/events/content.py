"""Content: the keys of a line with what guests read and wrote, which not every client may see."""

from __future__ import annotations

import re
from typing import Final

from qmond.events.fields import Form, exact
from qmond.events.table import EVENTS

__all__ = ["CONTENT_KEYS", "without_content"]

CONTENT_KEYS: Final = frozenset(
    key
    for event in EVENTS
    for field in event.fields
    if field.form is Form.CONTENT
    for key in (field.key, exact(field.key).key)
)
"""The keys that have what guests read and wrote."""
# In a JSON string, a backslash comes before each quote: so no guest can forge such a key.
_CONTENT: Final = re.compile(
    rb',"(?:%b)":"(?:[^"\\]|\\.)*"' % "|".join(sorted(CONTENT_KEYS)).encode()
)


def without_content(lines: bytes) -> bytes:
    """Return whole lines without content; lines that had some get `"redacted":true`."""
    if not _CONTENT.search(lines):
        return lines
    return b"".join(_redacted(line) for line in lines.splitlines(keepends=True))


def _redacted(line: bytes) -> bytes:
    left, count = _CONTENT.subn(b"", line)
    return left[:-2] + b',"redacted":true}\n' if count else line
