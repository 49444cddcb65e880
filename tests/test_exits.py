"""Text from outside on its way out: every byte, and every sequence that somebody could act on.

Each exit is read back by another program's parser, or by what its specification says.
"""

import csv
import io
import unicodedata
from struct import unpack

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from qmond.ctl.formats.table import csv_rows
from qmond.ctl.show.text import printable
from qmond.escape import json_bytes
from qmond.outputs.exposition import Family, render
from qmond.processes.table import text_of
from qmond.systemd.journald import encode

SEQUENCES = [
    b"\x1b[2J", b"\x1b]0;title\x07", b"\xc2\x9b31m", "\u202egnp.exe".encode(), "\u2028".encode(),
    "\u2066x\u2069".encode(), b"a\nPRIORITY=0\nMESSAGE=forged", b'","event":"EXIT","x":"',
    b'"} 1\nqmond_up 0\n', b"=cmd|' /C calc'!A0", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff\xfe",
    b"\r\nx", b"\\", b"\\n", b"%s%n", b"../../etc/passwd",
]  # fmt: skip
TEXTS = [bytes([byte]) for byte in range(256)] + [b"a%cb" % byte for byte in range(256)]


@pytest.mark.parametrize("raw", TEXTS + SEQUENCES)
def test_a_text_gets_out_whole_and_harmless(raw: bytes) -> None:
    text = text_of(raw)
    text.encode()  # it is UTF-8, whatever it was

    line = json_bytes({"comm": text})
    assert orjson.loads(line) == {"comm": text}
    assert all(is_harmless(c) for c in line.decode())

    assert all(is_harmless(c) for c in printable(text))

    sample = render([Family("x", "gauge", "a text", ("comm",), {(text,): 1.0})])
    (family,) = text_string_to_metric_families(sample.decode())
    assert [one.labels for one in family.samples] == [{"comm": text}]

    _, row = csv_rows(["comm"], [[text]], guarded=True, shown=True)
    ((cell,),) = csv.reader(io.StringIO(row.decode(), newline=""))
    assert all(is_harmless(c) for c in cell)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))

    assert fields(encode([("COMM", raw), ("LAST", "1")])) == [("COMM", raw), ("LAST", b"1")]


def is_harmless(c: str) -> bool:
    """Whether no terminal acts on a character, and none turns a text around."""
    turns = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return (
        unicodedata.category(c) not in {"Cc", "Zl", "Zp"}
        and c not in "\u061c\u200e\u200f"
        and unicodedata.bidirectional(c) not in turns
    )


def fields(message: bytes) -> list[tuple[str, bytes]]:
    """Parse a message as journald does: https://systemd.io/JOURNAL_NATIVE_PROTOCOL."""
    found = []
    stream = io.BytesIO(message)
    while head := stream.readline():
        name, equals, value = head.rstrip(b"\n").partition(b"=")
        if not equals:
            (size,) = unpack("<Q", stream.read(8))
            value = stream.read(size)
            assert stream.read(1) == b"\n"
        found.append((name.decode(), value))
    return found
