"""Which guests a glob means: of lines, and of the rows of `ps`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import translate
from posixpath import basename
from typing import Any

__all__ = ["GuestGlob"]


class GuestGlob:
    """A glob for guests: of their path, or if it has no slash, of their file name."""

    def __init__(self, glob: str) -> None:
        self._matches = re.compile(translate(glob)).match
        self._names_file = "/" not in glob

    def __call__(self, values: Mapping[str, Any]) -> bool:
        """Whether a line or a row is of such a guest."""
        for key in ("guest", "guest_path"):  # the second where the first is relative
            path = values.get(key)
            if path and self._matches(basename(path) if self._names_file else path):
                return True
        return False
