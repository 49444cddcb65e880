"""What an ELF file tells, against readelf and file; and what one tells that an attacker made."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from elves import CODE, HEADERS, SYMBOL, elf, library

from qmond.bpf.elf import is_static, symbol_offsets

NAMES = ("malloc", "calloc", "realloc", "free")
GIB = 1 << 30


def offsets_in(path: Path) -> dict[str, int]:
    with path.open("rb") as file:
        return symbol_offsets(file.fileno(), NAMES)


def offsets_of(data: bytes, size: int = 0) -> dict[str, int]:
    """Return what a file with these bytes tells; it is sparse behind them."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        if size:
            os.truncate(file.fileno(), size)
        return symbol_offsets(file.fileno(), NAMES)


def test_offsets_are_those_that_readelf_finds() -> None:
    libc = Path("/lib/x86_64-linux-gnu/libc.so.6")
    try:
        table = subprocess.run(
            ["readelf", "-W", "--dyn-syms", libc], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no readelf, or no libc of x86-64")
    rows = [line.split() for line in table.splitlines()]
    expected = {
        row[7].split("@")[0]: int(row[1], 16)
        for row in rows
        if len(row) > 7 and row[7].split("@")[0] in NAMES
    }
    assert len(expected) == 4
    # Debian's libc is linked with code at the same offset as its address
    assert offsets_in(libc) == expected


def test_a_dynamic_program_names_its_linker(tmp_path: Path) -> None:
    def static(path: Path) -> bool:
        with path.open("rb") as file:
            return is_static(file.fileno())

    assert not static(Path(sys.executable))
    script = tmp_path / "script"
    script.write_text("#!/bin/sh")
    with pytest.raises(ValueError, match="not an ELF file"):
        static(script)
    source, program = tmp_path / "x.c", tmp_path / "x"
    source.write_text("int main(void) { return 0; }")
    if subprocess.run(["cc", "-static", "-o", program, source], check=False).returncode:
        pytest.skip("no C compiler with a static libc")
    assert static(program)


# ---- files of others ---------------------------------------------------------------------------


def test_finds_a_function_where_it_is() -> None:
    assert offsets_of(library(0x20)) == {"malloc": 0x20}
    assert offsets_of(library(0x1020, (1, 5, 16, 0x1000, 4096))) == {"malloc": 0x30}


TABLES = [(11, HEADERS, SYMBOL, 1), (3, HEADERS, 8, 0)]


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"", 0),
        (b"#!/bin/sh", 0),
        (b"\x7fELF\x02\x01", 0),
        (b"\x7fELF\x01\x01" + bytes(100), 0),
        (library(0x20)[:100], 0),
        (library(0x20), 3 * GIB),
        (library(0x10000), 0),  # in no segment
        (library(0x20, (1, 4, 0, 0, 4096)), 0),  # in no code
        (library(4000), 0),  # behind the end of the file
        (library(0x20, (1, 5, (1 << 64) - 8, 0, 4096)), 0),
        (library(0x20, name=b"m" * 300 + b"\0"), 0),
        (library(0x20, name=b"malloc"), 0),
        (elf(TABLES, [CODE], bytes(100), section_size=40), 0),
        (elf(TABLES, [CODE], bytes(100), section_size=0), 0),
        (elf(TABLES, [CODE], bytes(100), segment_size=0), 0),
        (elf(TABLES, [CODE], bytes(100), more=1000), 1 << 20),
        (elf(TABLES, [CODE], bytes(100), more=10), 0),
        (elf([TABLES[0]] * 65_280, [CODE]), 0),
        (elf([*TABLES, TABLES[0]], [CODE], bytes(200)), 0),
        (elf([(3, HEADERS, 8, 0)], [CODE], bytes(100)), 0),
        (elf([(11, HEADERS, SYMBOL, 9), TABLES[1]], [CODE], bytes(100)), 0),
        (elf([(11, HEADERS, SYMBOL, 0), TABLES[1]], [CODE], bytes(100)), 0),
        (elf([(11, HEADERS, SYMBOL + 1, 1), TABLES[1]], [CODE], bytes(100)), 0),
        (elf([(11, HEADERS, SYMBOL * 100_001, 1), TABLES[1]], [CODE]), 8 << 20),
        (elf([(11, HEADERS, 1 << 62, 1), TABLES[1]], [CODE], bytes(100)), 0),
        (elf([(11, 1 << 63, SYMBOL, 1), TABLES[1]], [CODE], bytes(100)), 0),
        (elf([TABLES[0], (3, HEADERS, 1 << 40, 0)], [CODE], bytes(100)), 0),
        (elf(TABLES, [CODE] * 65, bytes(100)), 0),
    ],
)
def test_what_no_linker_makes_is_refused(data: bytes, size: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each for a reason of its own
        offsets_of(data, size)


def test_a_file_cut_anywhere_is_refused_or_read() -> None:
    whole = library(0x20)
    for end in range(len(whole)):
        with pytest.raises(ValueError, match="cut"):
            offsets_of(whole[:end])


def test_what_is_no_file_is_refused() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(ValueError, match="regular"):
            symbol_offsets(reading, NAMES)
    finally:
        os.close(reading)
        os.close(writing)
