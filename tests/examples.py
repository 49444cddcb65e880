"""The examples of the documentation: found in its pages, and compared with what really comes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Example", "Likeness", "examples_in", "shell_examples"]

_FENCE: Final = re.compile(r"```(\w*)")
_PROMPTS: Final = ("$ ", "# ")


@dataclass(frozen=True, slots=True)
class Example:
    """One example: `text` is a command line, or a program in `language`.

    `output` has the lines that the page shows, None where it shows none.
    """

    where: str
    language: str
    text: str
    output: tuple[str, ...] | None = None


def examples_in(page: Path, name: str) -> Iterator[Example]:
    """Yield the examples of a page in Markdown, in their order; a drawing is none."""
    language, first, block = None, 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.fullmatch(line)
        if language is None and fence:
            language, first, block = fence[1], number + 1, []
        elif language is not None and fence:
            yield from _examples(f"{name}:{first}", language, block)
            language = None
        else:
            block.append(line)


def _examples(where: str, language: str, block: list[str]) -> Iterator[Example]:
    if language == "sh":
        yield from shell_examples(where, block)
    elif language == "python":
        yield Example(where, language, "\n".join(block) + "\n")
    elif language == "" and block and block[0].startswith(_PROMPTS):
        yield from _session(where, block)


def shell_examples(where: str, lines: Sequence[str]) -> Iterator[Example]:
    """Yield the commands of a script; one that spans lines is one command."""
    command = ""
    for line in lines:
        command += line + "\n"
        if _is_whole(command):
            if command.strip() and not command.lstrip().startswith("#"):
                yield Example(where, "sh", command.strip())
            command = ""
    assert not command, f"{where}: a command without an end: {command}"


def _session(where: str, block: list[str]) -> Iterator[Example]:
    """Yield the commands of a session, with the output below each."""
    command, output = "", list[str]()
    for line in [*block, "$ "]:
        if command and not _is_whole(command):
            command += "\n" + line
        elif line.startswith(_PROMPTS):
            if command:
                while output and not output[-1]:  # an empty line stands between two commands
                    output.pop()
                yield Example(where, "sh", command, tuple(output))
            command, output = line[2:], []
        else:
            output.append(line)


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return not command.rstrip("\n").endswith("\\")


class Likeness:
    """Compares output that a page shows with what came, for all commands of that page.

    Every time is like every other one. So is a figure with a decimal point, or a count of events,
    or of what is not shown (`and 32 more`). `…` stands for
    any text. A number of four digits or more, such as a process ID, stands for one other number,
    the same on the whole page. Columns may have other widths.
    """

    def __init__(self) -> None:
        self._meant: dict[str, str] = {}

    def difference(self, shown: Sequence[str], came: Sequence[str]) -> str:
        """Return the first difference in words; nothing where there is none.

        A line that is `…` stands for any number of lines.
        """
        at = 0
        for number, line in enumerate(shown):
            if line.strip() == "…":
                following = shown[number + 1 :]
                if not following:
                    return ""
                while at < len(came) and not self._is_like(following[0], came[at]):
                    at += 1
                continue
            if at >= len(came):
                return f"there is no line like {line!r} any more"
            if not self._is_like(line, came[at]):
                return f"shown {line!r}, came {came[at]!r}"
            at += 1
        return f"not shown: {came[at]!r}" if at < len(came) else ""

    def _is_like(self, shown: str, came: str) -> bool:
        numbers: list[str] = []
        found = re.fullmatch(_TOKENS.sub(lambda token: _pattern(token, numbers), shown), came)
        if found is None:
            return False
        meant = dict(zip(numbers, found.groups(), strict=True))
        if len(meant) < len(set(zip(numbers, found.groups(), strict=True))):
            return False  # one number for two
        merged = self._meant | meant
        if any(self._meant.get(number, other) != other for number, other in meant.items()):
            return False
        if len(set(merged.values())) < len(merged):
            return False  # two numbers for one
        self._meant = merged
        return True


_TOKENS: Final = re.compile(
    r"""
    (?P<time>
        (?:\d{4}-\d\d-\d\d[T\ ])?\d\d:\d\d:\d\d(?:\.\d+)?Z?
        | \d{4}-\d\d-\d\d
        | \d{8}T\d{6}
    )
    | (?P<count>\d+(?=\ (?:events|more)\b))
    | (?P<figure>\d+\.\d+(?![.\d]))
    | (?P<address>\d+(?:\.\d+){3}(?::\d+)?)
    | (?P<number>(?<![\w.])\d{4,}(?![\w.]))
    | (?P<any>…)
    | (?P<space>\ +)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def _pattern(token: re.Match[str], numbers: list[str]) -> str:
    kind, text = token.lastgroup, token[0]
    if kind == "time":
        return re.sub(r"\d+", r"\\d+", re.escape(text))
    if kind == "count":
        return r"\d+"
    if kind == "figure":
        return r"\d+\.\d+"
    if kind == "any":
        return ".*"
    if kind == "space":
        return r"\ +"
    if kind == "number":
        numbers.append(text)
        return r"(\d+)"
    return re.escape(text)
