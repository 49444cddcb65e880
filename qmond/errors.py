"""The exceptions of qmond.

QmondError
├── ArgumentError    the arguments of a command are wrong
├── ConfigError      the configuration has faults; `faults` has all of them
├── LoadError        the kernel side could not be compiled, loaded or attached
├── BtfError         the kernel's type information is missing or unreadable
├── InUseError       another daemon holds the socket or the log
├── LogError         the event log cannot be opened or written
└── ProtocolError    the other side of the socket broke the protocol
    └── RequestError    the daemon refused a request; `kind` is the class of the error
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArgumentError",
    "BtfError",
    "ConfigError",
    "InUseError",
    "LoadError",
    "LogError",
    "ProtocolError",
    "QmondError",
    "RequestError",
]


class QmondError(Exception):
    """An error that the user sees as one line, and a hint what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n  {self.hint}" if self.hint else message


class ArgumentError(QmondError):
    """The arguments of a command are wrong."""


class ConfigError(QmondError):
    """One or more faults in a configuration file, each as `file:line: key: …`."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class LoadError(QmondError):
    """The kernel side could not be compiled, loaded or attached."""


class BtfError(QmondError):
    """The kernel's type information is missing or unreadable."""


class InUseError(QmondError):
    """Another daemon holds the socket or the log."""


class LogError(QmondError):
    """The event log cannot be opened or written."""


class ProtocolError(QmondError):
    """The other side of the socket broke the protocol."""


class RequestError(ProtocolError):
    """The daemon refused a request. `kind` is the class of the error, for programs.

    `line` and `column` say where an expression is wrong, both from 1; None where that is not known.
    """

    def __init__(
        self, kind: str, message: str, *, line: int | None = None, column: int | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.line = line
        self.column = column

    @classmethod
    def parse(cls, found: dict[str, Any]) -> RequestError:
        """Return the error that a refusal describes."""
        return cls(
            found["class"], found["message"], line=found.get("line"), column=found.get("column")
        )
