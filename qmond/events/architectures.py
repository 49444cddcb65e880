"""The guest architectures of qemu-user."""

from __future__ import annotations

from typing import Final

__all__ = ["ARCHITECTURES"]

ARCHITECTURES: Final = tuple(
    """
    aarch64 aarch64_be alpha arm armeb cris hexagon hppa i386 loongarch64 m68k microblaze
    microblazeel mips mips64 mips64el mipsel mipsn32 mipsn32el nios2 or1k ppc ppc64 ppc64le riscv32
    riscv64 s390x sh4 sh4eb sparc sparc32plus sparc64 x86_64 xtensa xtensaeb
    """.split()  # noqa: SIM905 - readable, for once
)
"""Their names: configs/targets/*-linux-user.mak, QEMU 7.2 to 9.2."""
