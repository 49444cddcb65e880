"""Who is this pid: names from names, guests from command lines."""

from dataclasses import replace

import pytest

from qmond.processes import (
    Process,
    ProcessTable,
    architecture,
    guest_of,
    parse_cgroup_names,
    text_of,
)


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


def test_every_invalid_byte_is_a_replacement_character() -> None:
    assert text_of(b"a\xff\xe2\x82b") == "a\ufffd\ufffd\ufffdb"


def table(*found: Process) -> ProcessTable:
    known = {process.pid: process for process in found}
    return ProcessTable(known.get, lambda _id: None, lambda _process: "static", lambda _pid: None)


SHELL = Process(
    10, 1, "qemu-arm", argv=(b"qemu-arm", b"sh"), comm="qemu-arm", arch="arm", launch="direct",
    start=5_000_000_000, parents=((1, "init"),),
)  # fmt: skip


def test_a_child_is_its_parent_but_for_its_identity() -> None:
    processes = table()
    processes.adopt(SHELL)
    processes.fork(10, 11, 6_123_456_789)
    child = processes[11]
    assert (child.pid, child.ppid, child.origin, child.launch) == (11, 10, "fork", "direct")
    assert child.start == 6_120_000_000
    assert child.parents == ((10, "qemu-arm"), (1, "init"))


def test_the_chain_of_parents_is_bounded() -> None:
    processes = table()
    processes.adopt(SHELL)
    for pid in range(10, 40):
        processes.fork(pid, pid + 1, 0)
    assert [parent for parent, _ in processes[40].parents] == list(range(39, 31, -1))


def test_one_that_nobody_knows_is_asked_for_once_and_not_kept() -> None:
    asked: list[int] = []
    processes = ProcessTable(asked.append, lambda _id: None, lambda _p: "", lambda _pid: None)
    assert processes[7].suffix == b""
    assert processes[7].pid == 7
    assert (asked, len(processes)) == ([7], 0)
    processes.take_news()
    assert processes[7].pid == 7
    assert asked == [7, 7]


def test_what_is_found_late_is_news() -> None:
    processes = table(SHELL)
    assert processes[10].allocations == "static"
    started, ended, over = processes.take_news()
    assert [process.pid for process in started] == [10]
    assert (ended, over) == ([], [])


def test_after_a_loss_the_ended_go_and_the_others_are_looked_up_again() -> None:
    other = replace(SHELL, argv=(b"sh", b"-c"), origin="procfs")
    reused = replace(SHELL, pid=12, start=9_000_000_000, guest=b"/new")
    processes = table(other, reused)
    for pid in (10, 11, 12, 13):
        processes.adopt(replace(SHELL, pid=pid))
    processes.take_news()
    processes.doubt(lambda pid: pid != 11)
    assert sorted(process.pid for process in processes) == [10, 12, 13]
    assert processes[10].argv == other.argv, "its exec was lost"
    assert processes[12].guest == b"/new", "its end, and a start with the same ID, were lost"
    assert processes[13].argv == SHELL.argv, "it cannot be looked up: what was known stays"
    assert processes.take_news().ended == [11]


@pytest.mark.parametrize(
    ("names", "path"),
    [
        (b"", "/"),
        (b"user.slice/", "/user.slice"),
        (b"leaf/middle/top/", "/top/middle/leaf"),
        (b"\xff/a b/", "/a b/\ufffd"),
        (b"leaf/middle", None),  # the root was not reached
    ],
)
def test_a_cgroups_path_from_its_names(names: bytes, path: str | None) -> None:
    assert parse_cgroup_names(names) == path
