"""A client's choice: by event, process, tree, guest, expression; and what it may see."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmond.errors import RequestError
from qmond.events.content import without_content
from qmond.events.table import NUMBER
from qmond.server.filters import Filter, NotBooleanError
from qmond.server.protocol import Selection, parse_selection

ALL = (1 << len(NUMBER)) - 1


def line(event: str, **values: Any) -> bytes:
    return json.dumps({"ts": 1.5, "event": event, **values}, separators=(",", ":")).encode() + b"\n"


def chosen(lines: Iterable[bytes], *, content: bool = True, **args: Any) -> list[dict[str, Any]]:
    wanted = Filter(parse_selection(args, ALL, 0), content=content)
    return [json.loads(kept) for row in lines if (kept := wanted(row)) is not None]


READS = [
    line("READ", pid=1, fd=0, buf="a password: x", len=13, arch="arm", guest="/bin/sh"),
    line("READ", pid=2, fd=3, buf="nothing", len=7, arch="aarch64", guest="/opt/sh"),
    line("WRITE", pid=2, fd=1, buf='"quoted"', len=8, buf_b64="/w==", arch="aarch64"),
    line("SCHED_SWITCH", pid=1, cpu=0),
]


@pytest.mark.parametrize(
    ("args", "numbers"),
    [
        ({}, [0, 1, 2, 3]),
        ({"events": ["READ"]}, [0, 1]),
        ({"pids": [1]}, [0, 3]),
        ({"pids": []}, []),
        ({"arch": ["arm", "mips"]}, [0]),
        ({"arch": ["ARM"]}, [0]),
        ({"events": ["file", "-WRITE"]}, [0, 1]),
        ({"guest": "*/sh"}, [0, 1]),
        ({"guest": "sh"}, [0, 1]),
        ({"guest": "*"}, [0, 1]),
        ({"guest": "*bin*"}, []),
        ({"guest": "/bin/*"}, [0]),
        ({"where": "fd == 0"}, [0]),
        ({"where": 'fd >= 0 && buf.contains("password")'}, [0]),
        ({"where": "len > 7 || event == 'SCHED_SWITCH'"}, [0, 2, 3]),
        ({"where": "fd == null"}, [3]),
        ({"events": ["READ"], "where": "fd == 3", "arch": ["aarch64"]}, [1]),
    ],
)
def test_what_is_chosen(args: dict[str, Any], numbers: list[int]) -> None:
    assert chosen(READS, **args) == [json.loads(READS[number]) for number in numbers]


def test_a_relative_guest_is_found_by_its_whole_path_too() -> None:
    lines = [
        line("READ", pid=1, guest="./busybox", guest_path="/opt/tools/./busybox"),
        line("READ", pid=2, guest="busybox"),
        line("READ", pid=3, guest=None, guest_path=None),
        line("READ", pid=4),
    ]
    for glob, pids in {
        "busybox": [1, 2],
        "./busybox": [1],
        "/opt/*": [1],
        "*/busybox": [1],
        "busy": [],
        "*": [1, 2],
    }.items():
        assert [row["pid"] for row in chosen(lines, guest=glob)] == pids, glob


@pytest.mark.parametrize("more", [{}, {"where": "prev_pid > 0"}])
def test_a_switch_is_of_the_process_that_it_names(more: dict[str, Any]) -> None:
    lines = [
        line("SCHED_SWITCH", prev_pid=11, next_pid=22, pid=1, next_tgid=2),
        line("SCHED_SWITCH", prev_pid=33, next_pid=11, pid=3, next_tgid=1),
        line("SCHED_SWITCH", prev_pid=33, next_pid=44, pid=3, next_tgid=4),
    ]
    assert chosen(lines, pids=[3], **more) == [json.loads(row) for row in lines[1:]]
    assert chosen(lines, tree=3, **more) == [json.loads(row) for row in lines[1:]]


def test_a_tree_grows_and_shrinks() -> None:
    lines = [
        line("TRACK_FORK", parent=1, child=2),
        line("WAIT4_EXITED", pid=9, child=2),
        line("READ", pid=2, fd=0),
        line("TRACK_FORK", parent=2, child=3),
        line("EXIT", pid=2),
        line("READ", pid=2, fd=1),  # another one of the same number
        line("READ", pid=3, fd=2),
        line("TRACK_ADOPT", pid=4, ppid=3),
        line("READ", pid=4, fd=3),
        line("TRACK_ADOPT", pid=5, ppid=9),
        line("READ", pid=5, fd=4),
        line("TRACK_ADOPT", pid=6, ppid=9, parents=[{"pid": 9, "comm": "sh"}, {"pid": 1}]),
        line("READ", pid=6, fd=5),  # by way of a process that is not watched
    ]
    found = chosen(lines, tree=1)
    assert [row["fd"] for row in found if row["event"] == "READ"] == [0, 2, 3, 5]
    assert [row["event"] for row in found].count("EXIT") == 1
    reads = chosen(lines, tree=1, events=["READ"])
    assert [row["fd"] for row in reads] == [0, 2, 3, 5], "it follows what it does not show"


def test_a_guest_is_chosen_by_either_of_its_paths() -> None:
    row = line("READ", pid=1, fd=0, guest="./sh", guest_path="/opt/sh")
    for glob in ("./sh", "/opt/*"):
        assert chosen([row], guest=glob) == [json.loads(row)]
    assert chosen([row], guest="/bin/*") == []


def test_a_switch_is_of_both_its_processes() -> None:
    lines = [
        line("SCHED_SWITCH", prev_pid=71, next_pid=0, pid=70),
        line("SCHED_SWITCH", prev_pid=71, next_pid=81, pid=70, next_tgid=80),
        line("SCHED_SWITCH", prev_pid=81, next_pid=71, pid=80, next_tgid=70),
        line("SCHED_SWITCH", prev_pid=81, next_pid=70, pid=80),
    ]
    assert chosen(lines, pids=[70]) == chosen(lines, tree=70) == [*map(json.loads, lines[:3])]


@pytest.mark.parametrize(
    "expression",
    [
        "1 / fd == 1",
        "1 % fd == 1",
        "fd + 9223372036854775807 + 1 > 0",
        "uint(fd - 1) == 1u",
        '{"a": fd}.b == 1',
        "[fd][1] == 1",
        "fd.foo == 1",
        'timestamp("9999-12-31T23:59:59Z") + duration("9999h") > timestamp("2026-01-01T00:00:00Z")',
    ],
)
def test_a_line_for_which_the_expression_fails_is_not_chosen(expression: str) -> None:
    assert chosen([line("READ", pid=1, fd=0)], where=expression) == []


def test_keys_can_be_chosen() -> None:
    assert chosen(READS[:1], fields=["pid", "fd"]) == [{"pid": 1, "fd": 0}]


def test_what_tells_of_the_stream_is_always_told() -> None:
    lines = [line("DROPPED", count=3), line("GAP", from_seq=1, to_seq=2)]
    assert len(chosen(lines, events=["READ"], where="fd == 0")) == 2


def test_torn_and_foreign_lines_are_left_out() -> None:
    assert chosen([b'{"ts":1,"eve', b"[]x\n", line("OF_A_LATER_VERSION")]) == []


def test_content_is_left_out_and_so_said() -> None:
    found = chosen(READS, content=False)
    assert [row.get("redacted") for row in found] == [True, True, True, None]
    assert not any({"buf", "buf_b64"} & set(row) for row in found)
    assert found[0] == {
        key: value for key, value in json.loads(READS[0]).items() if key != "buf"
    } | {"redacted": True}
    assert found[3] == json.loads(READS[3])


@given(st.text(), st.text(), st.text())
def test_nobody_can_write_around_that(secret: str, path: str, guest: str) -> None:
    row = line("READ", pid=1, buf=secret, file=path, buf_b64="c2VjcmV0", guest=guest)
    found = json.loads(without_content(row + row).splitlines()[1])
    assert found == {
        "ts": 1.5, "event": "READ", "pid": 1, "file": path, "guest": guest, "redacted": True
    }  # fmt: skip


@pytest.mark.parametrize("expression", ["buf == 'x'", "size(buf_b64) > 0", "has(buf.x)"])
def test_an_expression_does_not_leak_content(expression: str) -> None:
    with pytest.raises(RequestError, match="content, which you may not see") as caught:
        chosen(READS, content=False, where=expression)
    assert caught.value.kind == "Forbidden"
    assert caught.value.column == expression.index("buf") + 1
    chosen(READS, where=expression)


@pytest.mark.parametrize(
    "expression",
    [
        '"map(buf," != "" && buf.startsWith("s")',
        "'all(buf, ' != buf",
        'r"exists(buf," != buf',
        '"""filter(buf,""" != buf',
        "// map(buf, x\nbuf == 'x'",
        'argv.exists(buf, true) || buf == "x"',
        '[1].map(buf_b64, buf_b64).size() > 0 && buf_b64 != ""',
    ],
)
def test_no_text_of_an_expression_hides_content(expression: str) -> None:
    with pytest.raises(RequestError, match="content, which you may not see"):
        Filter(Selection(mask=ALL, where=expression), content=False)
    Filter(Selection(mask=ALL, where=expression), content=True)


def test_a_text_in_an_expression_binds_no_name() -> None:
    with pytest.raises(RequestError, match="no line has a key pdi"):
        Filter(Selection(mask=ALL, where='"map(pdi," != "" && pdi == 1'))
    lines = [line("TRACK_ADOPT", pid=1, ppid=0, argv=["map(b, "])]
    assert len(chosen(lines, where="""argv.exists(word, word == 'map(b, ')""")) == 1


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("fd ==", "column 6: mismatched input"),
        ("fd == 0 &&& pid", "column 11: token recognition"),
        ("fd == 0 && pdi == 1", "column 12: no line has a key pdi"),
        ("fd == 0 && nosuch(1)", "column 12: there is no nosuch()"),
        ("(" * 2000, "column"),
        ("(" * 200 + "1" + ")" * 200, "column 97: Recursion limit of 96 exceeded"),
        ("'<input>:7:7: no' ==", "column 21: mismatched input"),
        ("argv.exists(a, a == b)", "no line has a key b"),
        ("'pdi' == 'x' && pdi == 1", "column 17: no line has a key pdi"),
        ("pid == 1 &&\n fd ==", "line 2, column 7: mismatched input"),
        ("pid == 1 // pdi\n|| 'é' == 'é' || pdi == 1", "line 2, column 18: no line has a key pdi"),
        ("pid == 1 &&\n\n  nosuch(1)", "line 3, column 3: there is no nosuch()"),
    ],
)
def test_a_wrong_expression_is_told_by_its_column(expression: str, told: str) -> None:
    with pytest.raises(RequestError) as caught:
        Filter(Selection(mask=ALL, where=expression))
    error = caught.value
    assert told in error.args[0]
    place = f"line {error.line}, column" if error.line else "column"
    assert error.args[0].startswith(f"where: {place} {error.column}: ")
    assert (error.line is None) == ("\n" not in expression)


def test_macros_name_their_elements() -> None:
    lines = [line("TRACK_ADOPT", pid=1, ppid=0, argv=["sh", "-c"]), line("EXIT", pid=1)]
    assert len(chosen(lines, where='argv.exists(word, word == "-c")')) == 1


@given(st.text(alphabet="fd pid()=<>&|!?:.'\"0123xall,", max_size=40))
def test_no_expression_does_harm(text: str) -> None:
    try:
        chosen(READS, where=text)
    except (RequestError, NotBooleanError) as error:
        assert error.args[0]


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("fd", "a number"),
        ("fd + 1", "a number"),
        ("double(fd)", "a number"),
        ("buf", "a text"),
        ("size(buf)", "a number"),
        ("[fd]", "a list"),
        ("{1: fd}", "a map"),
        ("bytes(buf)", "bytes"),
        ('fd == 0 ? duration("1s") : null', "a value"),
    ],
)
def test_an_expression_that_is_no_test_is_told_at_the_first_line_that_shows_it(
    where: str, kind: str
) -> None:
    assert chosen([line("SCHED_SWITCH", pid=1, cpu=0)], where=f"fd == null ? null : {where}") == []
    with pytest.raises(NotBooleanError, match=f"^`where` gives {kind}, not true or false$"):
        chosen(READS[:1], where=where)


@pytest.mark.parametrize(
    ("where", "kind"), [("1", "a number"), ('"a"', "a text"), ("[1].map(x, x)", "a list")]
)
def test_a_constant_that_is_no_test_is_refused(where: str, kind: str) -> None:
    with pytest.raises(RequestError, match=f"^where: it gives {kind}, not true or false$"):
        chosen([], where=where)
    assert chosen(READS[:1], where="[1, 2].exists(x, x > 1)")
