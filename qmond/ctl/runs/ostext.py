"""Texts of the operating system, as JSON can have them: words of a command line, and paths.

Python has bytes in them that it could not decode as surrogates, which are no UTF-8. In the locale
C, these are also the bytes of valid UTF-8.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from typing import Final

__all__ = ["keys_of", "text_of"]

_INVALID: Final = re.compile("[\udc80-\udcff]")


def text_of(word: str) -> str:
    """Return it as UTF-8 has it; each byte that is not valid UTF-8 becomes U+FFFD."""
    return _INVALID.sub("\ufffd", _decoded(word))


def keys_of(key: str, value: str | Sequence[str]) -> dict[str, str | list[str]]:
    """Return a text, or a list of them, by its key; also by `<key>_b64` if it is not valid."""
    words = [value] if isinstance(value, str) else value
    texts, exact = [text_of(word) for word in words], [_base64(word) for word in words]
    found = {key: texts, f"{key}_b64": exact}
    if not any(_INVALID.search(_decoded(word)) for word in words):
        del found[f"{key}_b64"]
    return {name: row[0] if isinstance(value, str) else row for name, row in found.items()}


def _decoded(word: str) -> str:
    return os.fsencode(word).decode("utf-8", "surrogateescape")


def _base64(word: str) -> str:
    return base64.b64encode(os.fsencode(word)).decode()
