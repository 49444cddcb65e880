"""JSON that is safe to print: characters that control a terminal or text direction are escaped.

orjson and json escape neither DEL nor characters beyond ASCII, and a guest may use any of them.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

__all__ = ["json_bytes"]

_ACTIVE: Final = re.compile(
    rb"\x7f"  # DEL
    rb"|\xc2[\x80-\x9f]"  # U+0080 to U+009F: C1, with CSI
    rb"|\xd8\x9c|\xe2\x80[\x8e\x8f\xaa-\xae]|\xe2\x81[\xa6-\xa9]"  # bidirectional controls
    rb"|\xe2\x80[\xa8\xa9]"  # U+2028, U+2029: line and paragraph separator
)
"""The characters to escape, in UTF-8. orjson escapes those below 0x20."""


def json_bytes(value: Any, *, indent: bool = False) -> bytes:  # noqa: ANN401 - any JSON value
    """Return a value as JSON in UTF-8. `str` converts what JSON has no type for."""
    option = orjson.OPT_INDENT_2 if indent else 0
    found = orjson.dumps(value, default=str, option=option | orjson.OPT_NON_STR_KEYS)
    return _ACTIVE.sub(lambda match: b"\\u%04x" % ord(match[0].decode()), found)
