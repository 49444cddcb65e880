"""Generates the man pages qmonctl(1) and qmon.yaml(5).

`python -m qmond.ctl.manual` prints qmonctl(1), from the parser of its arguments. With the path of a
configuration file that has a comment above each key, it prints qmon.yaml(5).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from qmond import __version__
from qmond.ctl.completion import verb_parsers
from qmond.ctl.verbs import parser

__all__ = ["file_page", "page"]


def page() -> str:
    """Return qmonctl(1) as roff source: man(7)."""
    qmonctl = parser()
    return "\n".join(
        [
            f'.TH QMONCTL 1 "" "qmond {__version__}" "User Commands"',
            ".SH NAME",
            r"qmonctl \- ask the qmond daemon what programs under qemu-user do",
            ".SH SYNOPSIS",
            r".B qmonctl",
            r"[\-\-socket PATH] VERB [OPTIONS]",
            ".SH DESCRIPTION",
            _text(qmonctl.description or ""),
            ".SH OPTIONS",
            *_options(qmonctl),
            ".SH VERBS",
            *(line for name, verb in verb_parsers(qmonctl).items() for line in _verb(name, verb)),
            ".SH EXIT STATUS",
            _text((qmonctl.epilog or "").removeprefix("Exit status: ")),
            ".SH FILES",
            ".TP",
            ".I /run/qmond/qmond.sock",
            "The daemon's socket. $QMOND_SOCKET overrides it.",
            ".SH SEE ALSO",
            ".BR qmond (8),",
            ".BR strace (1)",
            "",
        ]
    )


def file_page(text: str) -> str:
    """Return qmon.yaml(5) as roff source, from a configuration file with comments."""
    head, _, keys = text.partition("\n\n")
    return "\n".join(
        [
            f'.TH QMON.YAML 5 "" "qmond {__version__}" "File Formats"',
            ".SH NAME",
            r"qmon.yaml \- the configuration of qmond",
            ".SH DESCRIPTION",
            _text(" ".join(line.removeprefix("# ") for line in head.splitlines()[1:])),
            ".SH KEYS",
            "Each key is shown with its default.",
            *_keys(keys.splitlines()),
            ".SH FILES",
            ".TP",
            ".I /etc/qmon.yaml",
            "Read if neither \\-\\-config nor $QMOND_CONFIG names another file.",
            ".SH SEE ALSO",
            ".BR qmond (8),",
            ".BR qmonctl (1)",
            "",
        ]
    )


def _keys(lines: list[str]) -> Iterator[str]:
    """Yield an entry for each key: its full name, its default, and the comment above it."""
    names: list[str] = []
    comment: list[str] = []
    for line in lines:
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
        elif stripped.startswith("- "):
            yield f".br\n{_text(stripped)}"
        elif stripped:
            key, _, value = stripped.partition(":")
            depth = (len(line) - len(line.lstrip())) // 2
            names = [*names[:depth], key]
            yield f".TP\n.B {_text('.'.join(names))}: {_text(value.strip())}".rstrip()
            yield _text(" ".join(comment)) or r"\&"
            comment = []


def _verb(name: str, verb: argparse.ArgumentParser) -> Iterator[str]:
    usage = " ".join(verb.format_usage().split()).removeprefix(f"usage: qmonctl {name} [-h]")
    yield f".SS {name}"
    yield f".B qmonctl {name}"
    if usage:
        yield _text(usage.lstrip())
    first, *rest = (verb.description or "").splitlines()
    yield f".PP\n{_text(first)}"
    if rest:
        yield f".PP\n.nf\n{_text(chr(10).join(rest).strip())}\n.fi"
    yield from _options(verb)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way
        if action.help == argparse.SUPPRESS or isinstance(
            action,
            argparse._HelpAction | argparse._SubParsersAction,  # noqa: SLF001
        ):
            continue
        names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
        value = choices or str(action.metavar or "")
        suffix = f" {value}" if value and action.option_strings and action.nargs != 0 else ""
        text = (action.help or choices) % {"default": action.default, "prog": "qmonctl"}
        yield f".TP\n.B {_text(names)}{_text(suffix)}\n{_text(text)}"


def _text(text: str) -> str:
    """Return text escaped for roff."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    escaped = re.sub(r"[^\0-\x7f]", lambda match: rf"\[u{ord(match[0]):04X}]", escaped)
    return "\n".join(
        rf"\&{line}" if line[:1] in {".", "'"} else line for line in escaped.split("\n")
    )


if __name__ == "__main__":
    paths = sys.argv[1:]
    sys.stdout.write(file_page(Path(paths[0]).read_text(encoding="utf-8")) if paths else page())
