"""What an ELF file tells, against readelf and file."""

import subprocess
import sys
from pathlib import Path

import pytest

from qmond.bpf.elf import HEADERS_SIZE, is_static, symbol_offsets

NAMES = ("malloc", "calloc", "realloc", "free")


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
    assert symbol_offsets(libc.read_bytes(), NAMES) == expected


def test_what_is_no_elf_is_refused() -> None:
    with pytest.raises(ValueError, match="not a 64-bit"):
        symbol_offsets(b"#!/bin/sh", NAMES)
    with pytest.raises(ValueError, match="not a 64-bit"):
        is_static(b"")


def test_a_dynamic_program_names_its_linker(tmp_path: Path) -> None:
    def first_bytes(path: Path) -> bytes:
        with path.open("rb") as file:
            return file.read(HEADERS_SIZE)

    assert not is_static(first_bytes(Path(sys.executable)))
    source, program = tmp_path / "x.c", tmp_path / "x"
    source.write_text("int main(void) { return 0; }")
    if subprocess.run(["cc", "-static", "-o", program, source], check=False).returncode:
        pytest.skip("no C compiler with a static libc")
    assert is_static(first_bytes(program))
