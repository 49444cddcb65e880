"""Filters of lines: by event, process, tree, guest and expression, and which keys are left.

A filter looks at the lines themselves, so that lines of the log and live lines are chosen alike.
Cheap tests come first, an expression in CEL comes last. Filters run in readers (reader.py), where
an expensive one costs its own client alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import orjson

from qmond.errors import RequestError
from qmond.escape import json_bytes
from qmond.events.content import CONTENT_KEYS, without_content
from qmond.events.fields import Event
from qmond.events.guestglob import GuestGlob
from qmond.events.table import EVENTS, NUMBER, STREAM_ONLY
from qmond.events.tree import Tree
from qmond.server.arguments import KEYS
from qmond.server.protocol import Selection

__all__ = ["KINDS", "Filter", "NotBooleanError"]

KINDS: Final = {
    (int, float): "a number",
    (str,): "a text",
    (bytes,): "bytes",
    (list,): "a list",
    (dict,): "a map",
    (object,): "a value",
}
"""What an expression may give that is no answer."""


class NotBooleanError(Exception):
    """An expression gives something that is neither a boolean nor null, of one of KINDS."""

    def __init__(self, value: object) -> None:
        self.kind = next(KINDS[types] for types in KINDS if isinstance(value, types))
        super().__init__(f"`where` gives {self.kind}, not true or false")


def _process_keys(event: Event) -> tuple[str, ...]:
    slots = {"pid", event.other} - {""}
    keys = tuple(field.key for field in event.fields if field.slot in slots)
    return keys or ("pid",)


_PROCESSES: Final = {event.name: _process_keys(event) for event in EVENTS}


class Filter:
    """A client's filter, line by line; it knows its tree from the lines that it has seen.

    It raises NotBooleanError at a line for which its expression has no answer.
    `content` says whether the client may see what guests read and wrote.
    """

    def __init__(self, selection: Selection, *, content: bool = True) -> None:
        """Raise RequestError where the expression is wrong, or has keys that are not for all."""
        self._selection = selection
        self._content = content
        self._guest = GuestGlob(selection.guest) if selection.guest else None
        self._tree = None if selection.tree is None else Tree(selection.tree)
        self._where = _Where(selection.where, content=content) if selection.where else None

    def add_members(self, pids: Iterable[int]) -> None:
        """Add processes to the tree that are known from elsewhere."""
        if self._tree is not None:
            self._tree.members.update(pids)

    def __call__(self, line: bytes) -> bytes | None:
        """Return what the client gets of a line with its newline, or None."""
        if not self._content:
            line = without_content(line)
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError:
            return None  # torn by a crash
        name = values.get("event") or values.get("evt")
        if name in STREAM_ONLY:
            return line
        if name not in NUMBER or not self._matches(name, values):
            return None
        keys = self._selection.fields
        if keys is None:
            return line
        return json_bytes({key: values[key] for key in values if key in keys}) + b"\n"

    def _matches(self, name: str, values: dict[str, Any]) -> bool:
        wanted, pids = self._selection, _pids(name, values)
        in_tree = self._tree is None or self._tree.follow(name, values, pids)
        return (
            in_tree
            and bool(wanted.mask >> NUMBER[name] & 1)
            and (wanted.pids is None or not wanted.pids.isdisjoint(pids))
            and (wanted.arch is None or values.get("arch") in wanted.arch)
            and (self._guest is None or self._guest(values))
            and (self._where is None or self._where(values))
        )


def _pids(name: str, values: dict[str, Any]) -> list[int]:
    return [values[key] for key in _PROCESSES[name] if key in values]


class _Where:
    """An expression in CEL over a line's keys; a key that the line does not have is null."""

    def __init__(self, text: str, *, content: bool) -> None:
        import cel  # noqa: PLC0415 - it takes a quarter of a second, and few filters need it

        try:
            self._program = cel.compile(text)
        except ValueError as error:
            raise _not_parsed(text, str(error)) from error
        used = set(self._program.variables())
        for name in sorted(used & CONTENT_KEYS) if not content else ():
            # whether a macro binds that name or not: no text can hide it
            what = f"{name} is content, which you may not see"
            raise _wrong(text, _place(text, name), what, kind="Forbidden")
        bound = {match[1] for match in _BOUND.finditer(_QUOTED.sub('""', text))}
        self._names = sorted(used - (bound - KEYS))
        for name in self._names:
            if name not in KEYS:
                raise _wrong(text, _place(text, name), f"no line has a key {name}")
        for name in sorted(set(self._program.functions()) - _FUNCTIONS):
            if name.isidentifier():
                raise _wrong(text, _place(text, name), f"there is no {name}()")
        if not self._names:
            self._check_constant()

    def __call__(self, values: dict[str, Any]) -> bool:
        try:
            found = self._program.execute({name: values.get(name) for name in self._names})
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
            return False  # the expression does not fit this line: a null has no contains()
        if found is None or isinstance(found, bool):
            return found is True
        raise NotBooleanError(found)

    def _check_constant(self) -> None:
        """Raise RequestError if an expression without keys can never be true or false."""
        try:
            self({})
        except NotBooleanError as error:
            raise RequestError(
                "BadArgument", f"where: it gives {error.kind}, not true or false"
            ) from error


_FUNCTIONS: Final = frozenset(
    """
    all bool bytes contains double duration endsWith exists exists_one filter getDate
    getDayOfMonth getDayOfWeek getDayOfYear getFullYear getHours getMilliseconds getMinutes
    getMonth getSeconds has int map matches max min size startsWith string timestamp type uint
    """.split()  # noqa: SIM905 - readable, for once
)
"""The functions of the CEL specification's standard library, and its macros."""
_BOUND: Final = re.compile(r"\b(?:all|exists|exists_one|map|filter)\s*\(\s*(\w+)\s*,")
"""The name that a macro gives to each element."""
_QUOTED: Final = re.compile(
    r"""
    [rR][bB]?\"{3}.*?\"{3} | [rR][bB]?'{3}.*?'{3} | [bB]?\"{3}(?:\\.|[^\\])*?\"{3} |
    [bB]?'{3}(?:\\.|[^\\])*?'{3} | [rR][bB]?"[^"\n]*" | [rR][bB]?'[^'\n]*' |
    "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | //[^\n]*
    """,
    re.VERBOSE | re.DOTALL,
)
"""The texts and comments of an expression: nothing in them binds a name."""


def _place(text: str, name: str) -> tuple[int, int]:
    """Return the line and column of a name in an expression, outside of texts and comments."""
    bare = _QUOTED.sub(lambda match: re.sub(".", " ", match[0]), text)
    found = re.search(rf"\b{re.escape(name)}\b", bare)
    before = text[: found.start()] if found else ""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _not_parsed(text: str, message: str) -> RequestError:
    """Return the refusal of an expression that CEL's parser does not take."""
    told = message.partition(text)[2] or message  # it repeats the expression first
    found = re.search(r"<input>:(\d+):(\d+): (?:Syntax error: )?([^\n]+)", told)
    if found is None:
        return RequestError("BadArgument", f"where: {message.splitlines()[0]}")
    inner = re.search(r'\bmsg: "([^"]+)"', found[3])  # of an error as the parser's own code has it
    return _wrong(text, (int(found[1]), int(found[2])), inner[1] if inner else found[3])


def _wrong(
    text: str, place: tuple[int, int], what: str, *, kind: str = "BadArgument"
) -> RequestError:
    """Return the refusal of an expression, with the line where it has several, and the column."""
    line, column = place
    if "\n" not in text:
        return RequestError(kind, f"where: column {column}: {what}", column=column)
    message = f"where: line {line}, column {column}: {what}"
    return RequestError(kind, message, line=line, column=column)
