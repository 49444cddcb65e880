"""BTF: a small one made by hand, the running kernel's, and broken ones."""

from pathlib import Path
from struct import pack

import pytest

from qmond.bpf.btf import VMLINUX, Btf, read_vmlinux
from qmond.errors import BtfError

STRINGS = b"\0outer\0first\0inner\0deep\0int\0"


def at(name: bytes) -> int:
    return STRINGS.index(b"\0" + name + b"\0") + 1


def btf() -> bytes:
    """Return struct outer { int first; union { struct { int deep; } inner; }; }."""
    types = b"".join(
        [
            pack("=IIII", at(b"int"), 1 << 24, 4, 32),  # 1: int
            pack("=III", 0, 4 << 24 | 1, 4) + pack("=III", at(b"deep"), 1, 64),  # 2: struct
            pack("=III", 0, 5 << 24 | 1, 4) + pack("=III", at(b"inner"), 2, 0),  # 3: union
            pack("=III", at(b"outer"), 4 << 24 | 2, 8)  # 4
            + pack("=III", at(b"first"), 1, 0)
            + pack("=III", 0, 3, 32),
        ]
    )
    return (
        pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(STRINGS))
        + types
        + STRINGS
    )


def test_offsets_reach_into_anonymous_members() -> None:
    found = Btf(btf())
    assert found.offset("outer.first") == 0
    assert found.offset("outer.inner") == 4
    assert found.offset("outer.inner.deep") == 12


def test_what_is_not_there_is_told_by_name() -> None:
    with pytest.raises(BtfError, match="no struct 'absent'"):
        Btf(btf()).offset("absent.x")
    with pytest.raises(BtfError, match="no member 'absent'"):
        Btf(btf()).offset("outer.absent")


def test_what_is_no_btf_is_told(tmp_path: Path) -> None:
    with pytest.raises(BtfError, match="cut off"):
        Btf(b"\x9f\xeb")
    with pytest.raises(BtfError, match="not 0xeb9f"):
        Btf(bytes(100))
    with pytest.raises(BtfError, match="CONFIG_DEBUG_INFO_BTF"):
        read_vmlinux(tmp_path / "none")


@pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF")
def test_the_running_kernels_is_understood() -> None:
    """A list_head holds two pointers, on every kernel there is."""
    assert read_vmlinux().offset("list_head.prev") == 8
