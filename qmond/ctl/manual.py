"""Two man pages, each out of what it is about.

`python -m qmond.ctl.manual` prints that of qmonctl, from its parser; with a configuration file that
explains every key, it prints that of the file.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from qmond import __version__
from qmond.ctl import parser

__all__ = ["file_page", "page"]


def page() -> str:
    """Return the page, as roff source: man(7)."""
    top = parser()
    return "\n".join(
        [
            f'.TH QMONCTL 1 "" "qmond {__version__}" "User Commands"',
            ".SH NAME",
            r"qmonctl \- ask the qmond daemon what programs under qemu-user do",
            ".SH SYNOPSIS",
            r".B qmonctl",
            r"[\-\-socket PATH] VERB [OPTIONS]",
            ".SH DESCRIPTION",
            _text(top.description or ""),
            ".SH OPTIONS",
            *_options(top),
            ".SH VERBS",
            *(line for name, verb in _verbs(top).items() for line in _verb(name, verb)),
            ".SH EXIT STATUS",
            _text((top.epilog or "").removeprefix("Exit status: ")),
            ".SH FILES",
            ".TP",
            ".I /run/qmond/qmond.sock",
            "The daemon's socket; $QMOND_SOCKET names another.",
            ".SH SEE ALSO",
            ".BR qmond (8),",
            ".BR strace (1)",
            "",
        ]
    )


def file_page(text: str) -> str:
    """Return the page of a configuration file that has a comment above each key."""
    head, _, keys = text.partition("\n\n")
    return "\n".join(
        [
            f'.TH QMON.YAML 5 "" "qmond {__version__}" "File Formats"',
            ".SH NAME",
            r"qmon.yaml \- the configuration of qmond",
            ".SH DESCRIPTION",
            _text(" ".join(line.removeprefix("# ") for line in head.splitlines()[1:])),
            ".SH KEYS",
            "Each with its default.",
            *_keys(keys.splitlines()),
            ".SH FILES",
            ".TP",
            ".I /etc/qmon.yaml",
            "Read where neither \\-\\-config nor $QMOND_CONFIG names another.",
            ".SH SEE ALSO",
            ".BR qmond (8),",
            ".BR qmonctl (1)",
            "",
        ]
    )


def _keys(lines: list[str]) -> Iterator[str]:
    """Yield keys, each by its whole name, with what the comment above it says."""
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


def _verbs(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(
        dict(action.choices)
        for action in top._actions  # noqa: SLF001 - argparse has no other way
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    )


def _verb(name: str, verb: argparse.ArgumentParser) -> Iterator[str]:
    usage = " ".join(verb.format_usage().split()).removeprefix(f"usage: qmonctl {name} ")
    yield f".SS {name}"
    yield f".B qmonctl {name}"
    yield _text(usage.replace("[-h] ", ""))
    first, *rest = (verb.description or "").splitlines()
    yield f".PP\n{_text(first)}"
    if rest:
        yield f".PP\n.nf\n{_text(chr(10).join(rest).strip())}\n.fi"
    yield from _options(verb)


def _options(of: argparse.ArgumentParser) -> Iterator[str]:
    for action in of._actions:  # noqa: SLF001
        if action.help == argparse.SUPPRESS or isinstance(
            action,
            argparse._HelpAction | argparse._SubParsersAction,  # noqa: SLF001
        ):
            continue
        names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
        value = choices or str(action.metavar or "")
        takes = f" {value}" if value and action.option_strings and action.nargs != 0 else ""
        told = (action.help or choices) % {"default": action.default, "prog": "qmonctl"}
        yield f".TP\n.B {_text(names)}{_text(takes)}\n{_text(told)}"


def _text(text: str) -> str:
    """Return text that roff takes for nothing else."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    escaped = re.sub(r"[^\0-\x7f]", lambda found: rf"\[u{ord(found[0]):04X}]", escaped)
    return "\n".join(
        rf"\&{line}" if line[:1] in {".", "'"} else line for line in escaped.split("\n")
    )


if __name__ == "__main__":
    file = sys.argv[1:]
    sys.stdout.write(file_page(Path(file[0]).read_text(encoding="utf-8")) if file else page())
