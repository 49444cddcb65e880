"""What can go wrong in qmond.

QmondError
├── ConfigError      the configuration is wrong; carries every fault found, not just the first
├── LoadError        the kernel side could not be compiled, loaded or attached
├── BtfError         the kernel's type information is missing or unreadable
├── InUseError       another daemon holds the socket or the log
├── LogError         the event log cannot be opened or written
└── ProtocolError    a peer on the socket sent what the protocol does not allow
    └── RequestError    the daemon refused a request; carries the error's class
"""

from __future__ import annotations

__all__ = [
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
    """An error that is told to the user as one line, with a hint on what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n  {self.hint}" if self.hint else message


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
    """A peer on the socket sent what the protocol does not allow."""


class RequestError(ProtocolError):
    """A request that the daemon refused; `kind` is the error's class, meant for programs."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
