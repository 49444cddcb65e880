"""The rules of redaction: patterns of secrets in RE2's syntax, and where they apply."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["DEFAULT_RULES", "Rule", "compile_pattern"]

_PROBES: Final = (b"", b"a", b"a b\n", b"\0\xff")
"""A pattern must not match an empty text in any of these: it would match everywhere."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern, and where it applies: to which events, guests (a glob) and paths (a glob).

    If the pattern has a group, the group is masked, otherwise the whole match.
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
    """Compile a pattern for bytes. Raises ValueError with the fault."""
    import re2  # noqa: PLC0415 - not needed without patterns

    if re.search(r"\\[Az]", pattern):
        raise ValueError(r"\A and \z are not supported: use ^ and $")
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes
    options.log_errors = False
    try:
        compiled = re2.compile(pattern.encode(), options)
    except re2.error as error:
        raise ValueError(error.args[0].decode("utf-8", "replace")) from error
    if any(begin == end for probe in _PROBES for begin, end in _spans(compiled, probe)):
        raise ValueError("it matches the empty text")
    return compiled


def _spans(pattern: Any, text: bytes) -> Iterator[tuple[int, int]]:  # noqa: ANN401 - re2 has no types
    return (match.span() for match in pattern.finditer(text))
