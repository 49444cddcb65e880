"""Secrets are taken out of what guests chose before a line goes anywhere.

The patterns are RE2's, which takes time in proportion to the text: guests choose that. All texts
of a batch are looked through at once; only where something is found, the line is made anew.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

import orjson

from qmond.fields import Event, Form

__all__ = ["DEFAULT_RULES", "MASK", "Redactor", "Rule", "compile_pattern"]

MASK: Final = b"*****"
_SURROGATE: Final = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern, and where it counts: in which events, guests (a glob), paths (a glob).

    Where the pattern has a group, that is what is masked, otherwise all that it matches.
    """

    pattern: str
    events: tuple[str, ...] = ()
    guest: str = ""
    path: str = ""


DEFAULT_RULES: Final = (
    Rule(r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(.*)"),
    Rule(
        r"""(?i)\b(?:password|passwd|passphrase|secret|token|api[_-]?key)["']?\s*[=:]\s*["']?"""
        r"""([^\s"'&;,]+)"""
    ),
    Rule(r"(?i)\bauthorization:\s*(?:basic|bearer|digest)\s+(\S+)"),
    Rule(r"://[^/\s:@]+:([^/\s@]+)@"),
    Rule(r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,})\b"),
    Rule(r"\$(?:1|5|6|y|2[aby])\$[./A-Za-z0-9$]{20,}"),
)


def compile_pattern(pattern: str) -> Any:  # noqa: ANN401 - re2 has no types
    """Compile a pattern for bytes. Raises ValueError with what is wrong."""
    import re2  # noqa: PLC0415 - for those alone who have patterns

    if re.search(r"\\[Az]", pattern):
        raise ValueError(r"\A and \z are not known here: use ^ and $")
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes
    options.log_errors = False
    try:
        return re2.compile(pattern.encode(), options)
    except re2.error as error:
        raise ValueError(str(error.args[0])) from error


class Redactor:
    """The rules, compiled. Raises ValueError where a pattern is wrong."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._patterns = [(rule, compile_pattern(rule.pattern)) for rule in self.rules]
        self.finds: Callable[[bytes], object] = lambda _text: None
        """Whether any pattern matches anywhere in texts that stand behind one another."""
        if self.rules:
            either = "|".join(f"(?:{rule.pattern})" for rule in self.rules)
            self.finds = compile_pattern(f"(?m){either}").search

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


def _masked(pattern: Any, text: bytes) -> bytes:  # noqa: ANN401 - re2 has no types
    parts, told = [], 0
    for match in pattern.finditer(text):
        begin, end = match.span(1 if pattern.groups else 0)
        if begin >= told and end > begin:
            parts += [text[told:begin], MASK]
            told = end
    return b"".join([*parts, text[told:]]) if parts else text


def _with(line: bytes, key: str, value: bytes) -> bytes:
    """Return a line with another text for a key; no guest can write a key's quotes."""
    pattern = rb'"%b":"(?:[^"\\]|\\.)*"' % key.encode()
    return re.sub(pattern, lambda _: b'"%b":%b' % (key.encode(), value), line, count=1)
