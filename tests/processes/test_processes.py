"""Who is this pid: names from names, guests from command lines."""

import tracemalloc
from dataclasses import replace
from struct import pack

import pytest

from qmond.events.records import IMAGE_FORMAT, PARENT_FORMAT, PARENTS_MAX, Flag
from qmond.events.table import NUMBER
from qmond.processes.table import (
    Answer,
    Process,
    ProcessTable,
    parse_names,
    text_of,
    words_of,
)
from qmond.processes.texts import Texts


def test_every_invalid_byte_is_a_replacement_character() -> None:
    assert text_of(b"a\xff\xe2\x82b") == "a\ufffd\ufffd\ufffdb"


def test_words_of_a_command_line() -> None:
    assert words_of(b"a\0\0b c\0") == [b"a", b"", b"b c"]
    assert words_of(b"a\0b") == [b"a", b"b"]
    assert words_of(b"") == []


class Asked:
    """Stands for who looks at processes; it answers when the test wants."""

    def __init__(self) -> None:
        self.answers: dict[int, Answer] = {}
        self.users: list[tuple[int, int | None]] = []

    def __call__(self, pid: int, uid: int | None, answer: Answer) -> None:
        self.answers[pid] = answer
        self.users.append((pid, uid))


def table(asked: Asked | None = None) -> ProcessTable:
    return ProcessTable(asked or Asked(), lambda _process: "static", lambda _pid: None)


SHELL = Process(
    10, 1, "qemu-arm", argv=b"qemu-arm\0sh\0", comm="qemu-arm", arch="arm", launch="direct",
    guest=b"sh", start=5_000_000_000, parents=((1, "init"),), uid=1000,
).rendered()  # fmt: skip


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


def test_one_that_nobody_knows_is_asked_for_once_and_not_waited_for() -> None:
    asked = Asked()
    processes = table(asked)
    for _ in range(2):
        assert (processes[7].pid, processes[7].suffix) == (7, b"")
        processes.take_news()
    assert (asked.users, len(processes)) == ([(7, None)], 0)
    asked.answers[7](None)
    assert processes[7].pid == 7
    assert asked.users == [(7, None), (7, None)], "it may be found another time"


def test_what_is_found_late_is_news() -> None:
    asked = Asked()
    processes = table(asked)
    processes[10]
    asked.answers[10](SHELL)
    assert processes[10].allocations == "static"
    started, ended, over = processes.take_news()
    assert [process.pid for process in started] == [10]
    assert (ended, over) == ([], [])


def image(pid: int, *argv: bytes, cwd: bytes = b"?") -> bytes:
    head = IMAGE_FORMAT.pack(0, pid, pid, NUMBER["TRACK_ADOPT"], 0, 0, 1, 1000, 0)
    parents = bytes(PARENT_FORMAT.size * PARENTS_MAX)
    return head + parents + b"\0".join([b"qemu-arm", argv[0], b"", cwd, *argv, b""])


def test_a_relative_guest_has_its_path_as_long_as_its_directory_is_known() -> None:
    asked = Asked()
    processes = table(asked)
    processes.image(image(10, b"qemu-arm", b"./x", cwd=b"dir/top/"))
    processes.fork(10, 11, 0)
    assert [p.guest_path for p in processes] == [b"/top/dir/x"] * 2
    suffix = b',"arch":"arm","guest":"./x","guest_path":"/top/dir/x"'
    assert [p.suffix for p in processes] == [suffix] * 2
    processes.image(image(11, b"qemu-arm", b"./x", cwd=b"?"))
    assert processes[11].suffix == b',"arch":"arm","guest":"./x"'
    before = processes[10]
    processes.doubt(lambda _pid: True)
    assert (processes[10].guest_path, processes[10].cwd) == (None, None)
    asked.answers[10](replace(before, cwd=None))
    assert processes[10].suffix == b',"arch":"arm","guest":"./x"', "the same from elsewhere, maybe"


def test_what_records_told_meanwhile_stands() -> None:
    late = replace(SHELL, guest=b"/late")
    for told in ("fork", "exec", "end"):
        asked = Asked()
        processes = table(asked)
        processes[11]
        answer = asked.answers[11]
        if told == "fork":
            processes.adopt(SHELL)
            processes.fork(10, 11, 0)
        elif told == "exec":
            processes.image(image(11, b"qemu-arm", b"sh"))
        else:
            processes.forget(11)
        assert answer(replace(late, pid=11)) is None
        assert processes[11].guest == (None if told == "end" else b"sh")


def test_a_child_of_one_that_nobody_knows_is_asked_for() -> None:
    asked = Asked()
    processes = table(asked)
    processes.fork(10, 11, 0)
    assert processes[11].ppid == 10
    asked.answers[11](replace(SHELL, pid=11))
    assert processes[11].guest == b"sh"


def test_after_a_loss_nothing_is_told_of_who_is_in_doubt() -> None:
    asked = Asked()
    processes = table(asked)
    for pid in (10, 11, 12, 13):
        processes.adopt(replace(SHELL, pid=pid))
    processes.take_news()
    processes.doubt(lambda pid: pid != 11)
    assert processes.take_news().ended == [11]
    assert sorted(process.pid for process in processes) == [10, 12, 13]
    assert all((p.guest, p.arch, p.suffix, p.argv) == (None, None, b"", b"") for p in processes)
    processes.confirm()
    assert asked.users == [(10, 1000), (12, 1000), (13, 1000)]
    asked.answers[10](replace(SHELL, argv=b"sh\0-c\0"))
    asked.answers[12](replace(SHELL, pid=12, start=9_000_000_000, guest=b"/new"))
    asked.answers[13](None)
    assert processes[10].argv == b"sh\0-c\0", "its exec was lost"
    assert processes[12].guest == b"/new", "its end, and a start with the same ID, were lost"
    assert processes[13].suffix == b"", "it is in doubt until somebody knows"
    asked.answers[13](replace(SHELL, pid=13))
    assert processes[13].suffix == SHELL.suffix


def test_what_was_asked_before_a_loss_is_no_answer_after_it() -> None:
    asked = Asked()
    processes = table(asked)
    processes.adopt(SHELL)
    processes.doubt(lambda _pid: True)
    processes.confirm()
    before = asked.answers[10]
    processes.doubt(lambda _pid: True)
    before(SHELL)
    assert processes[10].guest is None


def test_the_command_lines_of_a_whole_host_fit() -> None:
    """What 32,000 processes with 4,096 bytes of command line each cost, in bytes."""
    processes = table()
    tracemalloc.start()
    try:
        for pid in range(100, 32_100):
            processes.image(image(pid, b"qemu-arm", pack("=I", pid).hex().encode() * 510))
            processes.take_news()
        cost, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cost < 48 << 20
    assert len(processes[100].argv) > 4000
    assert processes[32_099].argv == b""
    for pid in range(100, 32_000):
        processes.forget(pid)
    processes.image(image(7, b"qemu-arm", b"x" * 4000))
    assert len(processes[7].argv) > 4000, "there is room again"


def test_directories_are_within_the_budget_too() -> None:
    processes = table()
    for pid in range(20_000):
        processes.image(image(pid, b"qemu-arm", b"x", cwd=b"%b%d/" % (b"d" * 1000, pid)))
    assert processes[0].guest_path is not None
    assert b"guest_path" in processes[0].suffix
    assert processes[19_999].suffix == b',"arch":"arm","guest":"x"'


def test_what_is_trusted_again_costs_no_more_than_before() -> None:
    asked = Asked()
    processes = table(asked)
    for pid in range(1000):
        processes.image(image(pid, b"qemu-arm", b"\1" * 4000, cwd=b"top/"))
    rows = list(processes)
    processes.doubt(lambda _pid: True)
    tracemalloc.start()
    try:
        for row in rows:
            processes[row.pid]
            asked.answers[row.pid](replace(row, cwd=None))
        cost, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cost < 2 << 20
    assert len(processes[0].suffix) > 6 * 4000


def test_a_text_is_kept_once_within_the_budget() -> None:
    texts = Texts(1000)
    first = texts.take(b"a" * 600)
    assert first is not None
    assert texts.take(bytes(b"a" * 600)) is first
    assert texts.take(b"b" * 600) is None
    assert texts.take(b"b" * 100) is not None, "short ones are always kept"
    texts.drop(first)
    assert texts.take(b"b" * 600) is None, "one still has it"
    texts.drop(first)
    assert texts.take(b"b" * 600) is not None


@pytest.mark.parametrize(
    ("names", "path"),
    [
        (b"", b"/"),
        (b"user.slice/", b"/user.slice"),
        (b"leaf/middle/top/", b"/top/middle/leaf"),
        (b"\xff/a b/", b"/a b/\xff"),
        (b"leaf/middle", None),  # the root was not reached
    ],
)
def test_a_path_from_its_names(names: bytes, path: bytes | None) -> None:
    assert parse_names(names) == path


@pytest.mark.parametrize(
    ("flags", "truncated"), [(0, False), (Flag.TRUNCATED, True), (Flag.FAULT, True)]
)
def test_a_command_line_that_was_not_read_whole_says_so(*, flags: int, truncated: bool) -> None:
    head = IMAGE_FORMAT.pack(1, 7, 7, NUMBER["TRACK_ADOPT"], 0, flags, 1, 1000, 0)
    parts = b"qemu-arm\0/bin/sh\0leaf/top/\0?\0"
    record = head + bytes(PARENTS_MAX * PARENT_FORMAT.size) + parts
    process = table().image(record)
    assert (process.truncated, process.cgroup, process.guest) == (truncated, "/top/leaf", None)
