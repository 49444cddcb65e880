"""The man page of qmonctl, out of its own parser: `python -m qmond.ctl.manual` prints it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from qmond import __version__
from qmond.ctl import parser

__all__ = ["page"]


def page() -> str:
    """Return the page, as roff source: man(7)."""
    top = parser()
    return "\n".join(
        [
            f'.TH QMONCTL 1 "" "qmond {__version__}" "User Commands"',
            ".SH NAME",
            r"qmonctl \- ask the qmond daemon what qemu-user processes do",
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
    return "\n".join(
        rf"\&{line}" if line[:1] in {".", "'"} else line for line in escaped.split("\n")
    )


if __name__ == "__main__":
    sys.stdout.write(page())
