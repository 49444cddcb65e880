"""What a terminal could act on is escaped, and means the same to whoever parses it."""

import json
import unicodedata

from qmond.escape import json_bytes

EVERYTHING = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000), 0x1F600]))


def test_no_control_or_bidirectional_character_stands_as_it_is() -> None:
    text = json_bytes(EVERYTHING).decode()
    active = {"Cc", "Zl", "Zp"}
    assert [char for char in text if unicodedata.category(char) in active] == []
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert [char for char in text if unicodedata.bidirectional(char) in turning] == []
    assert not set("\u061c\u200e\u200f") & set(text)
    assert json.loads(text) == EVERYTHING


def test_what_is_harmless_stays_readable() -> None:
    assert json_bytes({"a": "Grüße 你好 \u200b"}) == '{"a":"Grüße 你好 \u200b"}'.encode()
    assert json_bytes([1, {"b": None}], indent=True) == b'[\n  1,\n  {\n    "b": null\n  }\n]'
