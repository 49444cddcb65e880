"""Which lines a client wants, and what of them: events, processes, a tree, a guest, an expression.

It looks at the lines themselves, so that the log's are chosen like those that come. What is cheap
to look at is looked at first, an expression in CEL last. It runs in a client's reader (reader.py),
where an expensive one costs nobody but that client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from typing import Any, Final

import orjson

from qmond.errors import RequestError
from qmond.escape import json_bytes
from qmond.events.content import CONTENT_KEYS, without_content
from qmond.events.fields import Event
from qmond.events.table import EVENTS, NUMBER, STREAM_ONLY
from qmond.events.tree import Tree
from qmond.server.protocol import KEYS, Selection

__all__ = ["Filter"]


def _process_keys(event: Event) -> tuple[str, ...]:
    slots = {"pid", event.other} - {""}
    keys = tuple(field.key for field in event.fields if field.slot in slots)
    return keys or ("pid",)


_PROCESSES: Final = {event.name: _process_keys(event) for event in EVENTS}


class Filter:
    """A client's choice, line by line; it knows its tree from the lines that it has seen.

    `content` says whether the client may see what guests read and wrote. Raises RequestError where
    the expression is wrong, or looks at what the client may not see.
    """

    def __init__(self, selection: Selection, *, content: bool = True) -> None:
        self._selection = selection
        self._content = content
        self._guest = re.compile(translate(selection.guest)) if selection.guest else None
        self._tree = None if selection.tree is None else Tree(selection.tree)
        self._where = _Where(selection.where, content=content) if selection.where else None

    def join(self, members: Iterable[int]) -> None:
        """Add processes of the tree that are known from elsewhere."""
        if self._tree is not None:
            self._tree.members.update(members)

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
        if name not in NUMBER or not self._chosen(name, values):
            return None
        keys = self._selection.fields
        if keys is None:
            return line
        return json_bytes({key: values[key] for key in values if key in keys}) + b"\n"

    def _chosen(self, name: str, values: dict[str, Any]) -> bool:
        choice, pids = self._selection, _pids(name, values)
        in_tree = self._tree is None or self._tree.follow(name, values, pids)
        return (
            in_tree
            and bool(choice.mask >> NUMBER[name] & 1)
            and (choice.pids is None or not choice.pids.isdisjoint(pids))
            and (choice.arch is None or values.get("arch") in choice.arch)
            and (self._guest is None or bool(self._guest.match(values.get("guest") or "")))
            and (self._where is None or self._where(values))
        )


def _pids(name: str, values: dict[str, Any]) -> list[int]:
    return [values[key] for key in _PROCESSES[name] if key in values]


class _Where:
    """An expression in CEL over a line's keys; a key that the line does not have is null."""

    def __init__(self, text: str, *, content: bool) -> None:
        import cel  # noqa: PLC0415 - a quarter of a second, for those alone who filter so

        try:
            self._program = cel.compile(text)
        except ValueError as error:
            raise RequestError("BadArgument", f"where: {_place(str(error))}") from error
        used = set(self._program.variables())
        for name in sorted(used & CONTENT_KEYS) if not content else ():
            raise RequestError(  # whether a macro binds it or not: no text can hide it
                "Forbidden",
                f"where: column {_column(text, name)}: {name} is content, which you may not see",
            )
        bound = {match[1] for match in _BOUND.finditer(_QUOTED.sub('""', text))}
        self._names = sorted(used - (bound - KEYS))
        for name in self._names:
            if name not in KEYS:
                at = _column(text, name)
                raise RequestError("BadArgument", f"where: column {at}: no line has a key {name}")
        for name in sorted(set(self._program.functions()) - _FUNCTIONS):
            if name.isidentifier():
                at = _column(text, name)
                raise RequestError("BadArgument", f"where: column {at}: there is no {name}()")

    def __call__(self, values: dict[str, Any]) -> bool:
        try:
            return self._program.execute({name: values.get(name) for name in self._names}) is True
        except (RuntimeError, TypeError, ValueError):
            return False  # it does not apply to this line: a null has no contains()


_FUNCTIONS: Final = frozenset(
    """
    all bool bytes contains double duration endsWith exists exists_one filter getDate
    getDayOfMonth getDayOfWeek getDayOfYear getFullYear getHours getMilliseconds getMinutes
    getMonth getSeconds has int map matches max min size startsWith string timestamp type uint
    """.split()  # noqa: SIM905 - readable, for once
)
"""Those of the CEL specification's standard library, and its macros."""
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
"""Texts of an expression, and comments: what stands in them binds nothing."""


def _column(text: str, name: str) -> int:
    found = re.search(rf"\b{re.escape(name)}\b", text)
    return found.start() + 1 if found else 1


def _place(message: str) -> str:
    """Return a parser's error as `column 5: what`."""
    found = re.search(r"<input>:\d+:(\d+): (?:Syntax error: )?([^\n]+)", message)
    return f"column {found[1]}: {found[2]}" if found else message.splitlines()[0]
