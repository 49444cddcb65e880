"""Secrets are taken out of what guests chose before a line goes anywhere.

The patterns are RE2's, which takes time in proportion to the text: guests choose that. All texts
of a batch are looked through at once; only where something is found, the line is made anew. That
takes a hundred times as long, so that each family of processes has an allowance for it: beyond it
the texts in which something is found are left out as a whole, and the line says so.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
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
    """The rules, compiled. Raises ValueError where a pattern is wrong."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._patterns = [(rule, compile_pattern(rule.pattern)) for rule in self.rules]
        self.search: Callable[[bytes, int], int | None] = lambda _text, _at: None
        """Where any pattern matches next, from a place on, in texts that stand in lines."""
        if self.rules:
            either = "|".join(f"(?:{rule.pattern})" for rule in self.rules)
            search = compile_pattern(f"(?m){either}").search

            def find(text: bytes, at: int) -> int | None:
                match = search(text, at)
                return None if match is None else match.start()

            self.search = find

    def finds(self, text: bytes) -> bool:
        """Whether any pattern matches anywhere in a text."""
        return self.search(text, 0) is not None

    def hide(self, text: bytes) -> bytes:
        """Mask what the rules that hold everywhere find in a text."""
        for rule, pattern in self._patterns:
            if not (rule.events or rule.guest or rule.path):
                text = _masked(pattern, text)
        return text

    def line(self, line: bytes, event: Event, raw: bytes) -> bytes:
        """Return a line with what the rules find in its text masked; `raw` is the text in bytes."""
        values = orjson.loads(line)
        keys = {field.form: field.key for field in event.fields}
        key = keys.get(Form.CONTENT) or keys[Form.TEXT]
        path = values[key] if Form.TEXT in keys else ""
        hidden = raw
        for rule, pattern in self._patterns:
            if rule.events and event.name not in rule.events:
                continue
            if rule.guest and not fnmatchcase(values.get("guest") or "", rule.guest):
                continue
            if rule.path and not fnmatchcase(path, rule.path):
                continue
            hidden = _masked(pattern, hidden)
        if hidden == raw:
            return line
        exact = keys.get(Form.EXACT, "")
        # what was valid but for a character that the end cut in two stays valid
        text = hidden.decode("utf-8", "surrogateescape" if exact in values else "ignore")
        line = _with(line, key, orjson.dumps(_SURROGATE.sub("\ufffd", text)))
        if exact in values:
            line = _with(line, exact, b'"%b"' % base64.b64encode(hidden))
        return line


def withheld(line: bytes, event: Event) -> bytes:
    """Return a line without the text that a guest chose; it says so."""
    for field in event.fields:
        key = field.key.encode()
        if field.form in {Form.TEXT, Form.CONTENT} and b',"%b":"' % key in line:
            line = _with(line, field.key, b'""' + b',"withheld":true')
        elif field.form is Form.EXACT:
            line = re.sub(rb',"%b":"[^"]*"' % key, b"", line, count=1)
    return line


def _masked(pattern: Any, text: bytes) -> bytes:  # noqa: ANN401 - re2 has no types
    parts, told = [], 0
    for match in pattern.finditer(text):
        begin, end = match.span(1 if pattern.groups else 0)
        if begin >= told and end > begin:  # a group may have matched nothing
            parts += [text[told:begin], MASK]
            told = end
    return b"".join([*parts, text[told:]]) if parts else text


def _with(line: bytes, key: str, value: bytes) -> bytes:
    """Return a line with another text for a key; no guest can write a key's quotes."""
    pattern = rb'"%b":"(?:[^"\\]|\\.)*"' % key.encode()
    return re.sub(pattern, lambda _: b'"%b":%b' % (key.encode(), value), line, count=1)
