"""Redaction: masking secrets in the texts of guests, before a line is written or sent.

Guests choose the texts. So the patterns are RE2's, which matches in linear time. One search covers
all texts of a batch, and only a line with a match is made anew. `masking.py` limits the time for
that.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from posixpath import basename
from typing import Any, Final

import orjson

from qmond.config.rules import Rule, compile_pattern
from qmond.events.fields import Event, Form

__all__ = [
    "MASK",
    "Redactor",
    "withheld",
]

MASK: Final = b"*****"
_SURROGATE: Final = re.compile("[\udc80-\udcff]")


class Redactor:
    """The compiled rules. Raises ValueError for a wrong pattern."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._patterns = [(rule, compile_pattern(rule.pattern)) for rule in self.rules]
        self.search: Callable[[bytes, int], int | None] = lambda _text, _at: None
        """Return the offset of the next match of any pattern, from an offset on, or None.

        The texts to search are joined by newlines.
        """
        if self.rules:
            either = "|".join(f"(?:{rule.pattern})" for rule in self.rules)
            search = compile_pattern(f"(?m){either}").search

            def find(text: bytes, at: int) -> int | None:
                match = search(text, at)
                return None if match is None else match.start()

            self.search = find

    def finds(self, text: bytes) -> bool:
        """Whether any pattern matches in a text."""
        return self.search(text, 0) is not None

    def hide(self, text: bytes) -> bytes:
        """Mask a text by the rules that are not limited to an event, a guest or a path."""
        for rule, pattern in self._patterns:
            if not (rule.events or rule.guest or rule.path):
                text = _masked(pattern, text)
        return text

    def line(self, line: bytes, event: Event, raw: bytes) -> bytes:
        """Return a line with the secrets in its text masked; `raw` is that text, as bytes."""
        values = orjson.loads(line)
        keys = {field.form: field.key for field in event.fields}
        key = keys.get(Form.CONTENT) or keys[Form.TEXT]
        path = values[key] if Form.TEXT in keys else ""
        hidden = raw
        for rule, pattern in self._patterns:
            if rule.events and event.name not in rule.events:
                continue
            if rule.guest and not _is_of(rule.guest, values):
                continue
            if rule.path and not fnmatchcase(path, rule.path):
                continue
            hidden = _masked(pattern, hidden)
        if hidden == raw:
            return line
        exact = keys.get(Form.EXACT, "")
        # without the exact bytes, only a character cut at the end may be invalid: it is dropped
        text = hidden.decode("utf-8", "surrogateescape" if exact in values else "ignore")
        line = _replaced(line, key, orjson.dumps(_SURROGATE.sub("\ufffd", text)))
        if exact in values:
            line = _replaced(line, exact, b'"%b"' % base64.b64encode(hidden))
        return line


def _is_of(glob: str, values: dict[str, Any]) -> bool:
    """Whether a line is of such a guest, by its path or its file name: more is masked than less."""
    paths = [values.get(key) or "" for key in ("guest", "guest_path")]
    return any(fnmatchcase(name, glob) for path in paths for name in (path, basename(path)))


def withheld(line: bytes, event: Event) -> bytes:
    """Return a line without the guest's text, and with `"withheld":true`."""
    for field in event.fields:
        key = field.key.encode()
        if field.form in {Form.TEXT, Form.CONTENT} and b',"%b":"' % key in line:
            line = _replaced(line, field.key, b'""' + b',"withheld":true')
        elif field.form is Form.EXACT:
            line = re.sub(rb',"%b":"[^"]*"' % key, b"", line, count=1)
    return line


def _masked(pattern: Any, text: bytes) -> bytes:  # noqa: ANN401 - re2 has no types
    parts, copied = [], 0
    for match in pattern.finditer(text):
        begin, end = match.span(1 if pattern.groups else 0)
        if begin >= copied and end > begin:  # a group may be empty
            parts += [text[copied:begin], MASK]
            copied = end
    return b"".join([*parts, text[copied:]]) if parts else text


def _replaced(line: bytes, key: str, value: bytes) -> bytes:
    """Return a line with another value of a key whose value is a string.

    A guest's text cannot be taken for a key, because quotes in it are escaped.
    """
    pattern = rb'"%b":"(?:[^"\\]|\\.)*"' % key.encode()
    return re.sub(pattern, lambda _: b'"%b":%b' % (key.encode(), value), line, count=1)
