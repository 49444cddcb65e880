"""Where libc is in a process, where its functions are in the file, and when not to touch it."""

import subprocess
from pathlib import Path

import pytest

from qmond.bpf.uprobes import FUNCTIONS, is_safe, parse_maps, symbol_offsets

MAPS = b"""\
55d0c0000000-55d0c0100000 r-xp 00000000 fe:00 1 /usr/bin/qemu-aarch64
7f0000000000-7f0000100000 r--p 00000000 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6
07f000100000-7f0000200000 r-xp 00100000 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6
7f0000300000-7f0000400000 r-xp 00000000 fe:00 3 /usr/lib/x86_64-linux-gnu/libcap.so.2
"""


def test_finds_libcs_code() -> None:
    assert parse_maps(MAPS) == "7f000100000-7f0000200000"
    assert parse_maps(MAPS.replace(b"libc.so.6", b"libx.so")) is None
    assert parse_maps(b"1000-2000 r-xp 0 00:00 1 /lib/ld-musl-x86_64.so.1\n") == "1000-2000"


@pytest.mark.parametrize(
    ("arch", "host", "safe"),
    [
        ("aarch64", "x86_64", True),
        ("x86_64", "x86_64", False),  # the guest runs the host's libc as its own
        ("i386", "x86_64", False),
        ("arm", "aarch64", False),
        (None, "x86_64", False),
    ],
)
def test_a_guest_of_the_hosts_architecture_is_never_probed(
    arch: str | None,
    host: str,
    safe: bool,  # noqa: FBT001
) -> None:
    assert is_safe(arch, host) is safe


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
        if len(row) > 7 and row[7].split("@")[0] in FUNCTIONS
    }
    assert len(expected) == 4
    # Debian's libc is linked with code at the same offset as its address
    assert symbol_offsets(libc.read_bytes(), FUNCTIONS) == expected


def test_what_is_no_elf_is_refused() -> None:
    with pytest.raises(ValueError, match="not a 64-bit"):
        symbol_offsets(b"#!/bin/sh", FUNCTIONS)
