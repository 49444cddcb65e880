"""The connection of a verb to the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from qmond.client import Client

__all__ = ["ANSWER_MAX", "connect"]

ANSWER_MAX: Final = 5
"""Seconds that a user waits for the daemon's answer."""


def connect(path: Path | None) -> Client:
    """Connect to the socket at `path`, None for the default. Raises QmondError.

    So does each request that is not answered in time.
    """
    return Client(path, timeout=ANSWER_MAX)
