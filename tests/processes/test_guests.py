"""Which guest runs: the architecture from a name, the path from a command line."""

import pytest

from qmond.processes.guests import architecture, guest_of, whole_path


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("qemu-aarch64", "aarch64"),
        ("qemu-arm-static", "arm"),
        ("qemu-x86_64-static", "x86_64"),
        ("qemu-aarch64_be", "aarch64_be"),
        ("bash", None),
        ("qemu-", None),
        ("qemu-system-arm", None),
    ],
)
def test_architecture(name: str, arch: str | None) -> None:
    assert architecture(name) == arch


@pytest.mark.parametrize(
    ("line", "guest"),
    [
        ("qemu-arm ./prog -x", b"./prog"),
        ("qemu-arm -L /usr/arm -cpu max prog -L x", b"prog"),
        ("qemu-arm --strace -E A=b -0 name prog", b"prog"),
        ("qemu-arm -g 1234 -- -odd", b"-odd"),
        ("qemu-arm -version", None),
        ("qemu-arm", None),
        ("qemu-arm -L", None),
    ],
)
def test_the_guest_of_an_interpreter_started_by_hand(line: str, guest: bytes | None) -> None:
    argv = line.encode().split()
    assert guest_of(b"/usr/bin/qemu-arm", argv, emulated=True, interpreted=False) == guest


def test_the_guest_of_binfmt_misc_is_the_interpreters_first_argument() -> None:
    argv = [b"/usr/libexec/qemu-binfmt/arm-binfmt-P", b"/bin/tool", b"tool", b"-x"]
    assert guest_of(b"/bin/tool", argv, emulated=True, interpreted=True) == b"/bin/tool"
    assert guest_of(b"./a", [], emulated=True, interpreted=True) == b"./a"


def test_a_native_program_is_what_was_asked_for() -> None:
    assert guest_of(b"/bin/ls", [b"ls"], emulated=False, interpreted=False) == b"/bin/ls"


@pytest.mark.parametrize(
    ("cwd", "path", "whole"),
    [
        (b"/home/x", b"sensor", b"/home/x/sensor"),
        (b"/home/x", b"./sensor", b"/home/x/sensor"),
        (b"/home/x", b".///./bin//sensor", b"/home/x/bin//sensor"),
        (b"/home/x", b"../y/./sensor", b"/home/x/../y/./sensor"),
        (b"/", b"./sensor", b"/sensor"),
        (b"/", b".hidden", b"/.hidden"),
    ],
)
def test_a_relative_path_in_its_directory(cwd: bytes, path: bytes, whole: bytes) -> None:
    assert whole_path(cwd, path) == whole
