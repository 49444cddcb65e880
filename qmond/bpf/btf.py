"""Byte offsets of kernel struct members, read from BTF.

Linux' Documentation/bpf/btf.rst has the format. Members of anonymous structs and unions are found,
too: in Linux 6.18, `d_name` and `f_path` are such members.
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from struct import Struct, pack
from typing import Final

from qmond.errors import BtfError

__all__ = ["VMLINUX", "Btf", "read_vmlinux"]

VMLINUX: Final = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
_HEADER = Struct("=HBBIIIII")
_TYPE = Struct("=III")  # name, info, size or type; struct btf_member has the same shape
_WORD = Struct("=I")

_STRUCT, _UNION = 4, 5
_MODIFIERS = frozenset({8, 9, 10, 11, 18})  # typedef, volatile, const, restrict, type_tag
_TAIL = {
    1: (4, 0),  # int
    3: (12, 0),  # array
    4: (0, 12),  # struct
    5: (0, 12),  # union
    6: (0, 8),  # enum
    13: (0, 8),  # func_proto
    14: (4, 0),  # var
    15: (0, 12),  # datasec
    17: (4, 0),  # decl_tag
    19: (0, 12),  # enum64
}
"""For each kind, the bytes after struct btf_type: a fixed number, and so many per `vlen`."""


class Btf:
    """The type information of one kernel."""

    def __init__(self, data: bytes) -> None:
        try:
            magic, _, _, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(data)
        except Exception as error:
            raise BtfError(f"the kernel's BTF is cut off after {len(data)} bytes") from error
        if magic != _MAGIC:
            raise BtfError(f"the kernel's BTF starts with {magic:#06x}, not {_MAGIC:#06x}")
        self._types = data[header + type_off : header + type_off + type_len]
        self._strings = data[header + str_off : header + str_off + str_len]
        self._positions = self._index()

    def offset(self, path: str) -> int:
        """Return the offset in bytes of `struct.member.member`. Raises BtfError."""
        first, *members = path.split(".")
        type_id, total = self._struct(first), 0
        for name in members:
            found = self._member(type_id, name)
            if found is None:
                raise BtfError(f"this kernel's BTF has no member {name!r} of {path!r}")
            offset, type_id = found
            total += offset
        return total

    def _index(self) -> list[int]:
        """Return the position of each type by its ID; ID 0 is void."""
        positions, position = [0], 0
        unpack, types, tail = _WORD.unpack_from, self._types, _TAIL
        while position < len(types):
            positions.append(position)
            (info,) = unpack(types, position + 4)
            fixed, each = tail.get(info >> 24 & 0x1F, (0, 0))
            position += 12 + fixed + (info & 0xFFFF) * each
        return positions

    def _type(self, type_id: int) -> tuple[int, int, bool, int]:
        """Return the kind, vlen and kind_flag of a type, and the ID of the type it refers to."""
        _, info, reference = _TYPE.unpack_from(self._types, self._positions[type_id])
        return info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31), reference

    def _struct(self, name: str) -> int:
        at = self._strings.find(b"\0" + name.encode() + b"\0") + 1  # BTF has each string once
        if at:
            needle, position = pack("=I", at), -1
            while (position := self._types.find(needle, position + 1)) >= 0:
                type_id = bisect_left(self._positions, position, lo=1)
                starts_here = self._positions[type_id : type_id + 1] == [position]
                if starts_here and self._type(type_id)[0] == _STRUCT:
                    return type_id
        raise BtfError(f"this kernel's BTF has no struct {name!r}")

    def _member(self, type_id: int, name: str) -> tuple[int, int] | None:
        """Return the offset and the type of a member, or None."""
        kind, vlen, bitfields, reference = self._type(type_id)
        while kind in _MODIFIERS:
            type_id = reference
            kind, vlen, bitfields, reference = self._type(type_id)
        if kind not in (_STRUCT, _UNION):
            return None
        members = self._positions[type_id] + _TYPE.size
        for index in range(vlen):
            name_at, member_type, bits = _TYPE.unpack_from(
                self._types, members + _TYPE.size * index
            )
            offset = (bits & 0xFFFFFF if bitfields else bits) // 8
            if name_at:
                if self._strings.startswith(name.encode() + b"\0", name_at):
                    return offset, member_type
            elif (found := self._member(member_type, name)) is not None:
                return offset + found[0], found[1]
        return None


def read_vmlinux(path: Path = VMLINUX) -> Btf:
    """Return the BTF of the running kernel. Raises BtfError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"{path}: {error.strerror}: the kernel has no type information (BTF)"
        hint = "qmond needs a kernel with CONFIG_DEBUG_INFO_BTF=y, as current distributions have"
        raise BtfError(message, hint=hint) from error
    return Btf(data)
