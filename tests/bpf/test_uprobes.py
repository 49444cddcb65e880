"""Where libc is in a process, and when not to touch it."""

import os
from pathlib import Path

import pytest

from qmond.bpf.uprobes import NotProbedError, UnsafeError, check_library, parse_maps
from qmond.daemon.allocations import is_safe

MAPS = b"""\
55d0c0000000-55d0c0100000 r-xp 00000000 fe:00 1 /usr/bin/qemu-aarch64
7f0000000000-7f0000100000 r--p 00000000 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6
7f0000100000-7f0000200000 r-xp 00100000 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6
7f0000300000-7f0000400000 r-xp 00000000 fe:00 3 /usr/lib/x86_64-linux-gnu/libcap.so.2
"""


def test_finds_libcs_code() -> None:
    assert parse_maps(MAPS) == "7f0000100000-7f0000200000"
    with pytest.raises(NotProbedError, match="no C library"):
        parse_maps(MAPS.replace(b"libc.so.6", b"libx.so"))
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


def test_a_libc_that_the_guest_has_mapped_too_is_not_touched() -> None:
    guests = (
        b"7e0000000000-7e0000100000 r--p 00000000 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6\n"
    )
    with pytest.raises(UnsafeError, match="more than once"):
        parse_maps(guests + MAPS)


def is_trusted(path: Path) -> bool:
    file = os.open(path, os.O_PATH)
    try:
        check_library(file)
    except PermissionError:
        return False
    finally:
        os.close(file)
    return True


def test_only_a_file_that_root_alone_can_change_is_probed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    library = tmp_path / "libc.so.6"
    library.write_bytes(b"")
    library.chmod(0o644)
    assert is_trusted(library)
    for mode in (0o664, 0o646):
        library.chmod(mode)
        assert not is_trusted(library)
    library.chmod(0o755)
    os.chown(library, 1000, 0)
    assert not is_trusted(library)
    fifo = tmp_path / "libc-fifo.so"
    os.mkfifo(fifo, 0o600)
    assert not is_trusted(fifo), "and it was not opened, which would wait"
