"""Events as people read them; what guests chose does not reach the terminal as it is."""

import ctypes
import json
import locale
import re
import time
import unicodedata
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmond.ctl.show import render, strace
from qmond.ctl.show.text import columns, cut, pad, width
from qmond.events.table import BY_NAME, PUBLIC

BERLIN = ZoneInfo("Europe/Berlin")
LIBC = ctypes.CDLL(None)

WRITE: dict[str, Any] = {
    "ts": 12.5, "event": "WRITE", "pid": 4011, "fd": 1, "buf": "hi\n", "len": 3, "truncated": False,
    "seq": 7, "tid": 4012, "arch": "arm", "guest": "/bin/busybox",
}  # fmt: skip
SHOWN = [*map(json.loads, Path(__file__).with_name("shown.jsonl").read_text().splitlines())]
"""Lines of every event, and how they are shown; `coloured` is 90 columns wide."""
HOSTILE = ["\x1b[2J", "\x9b31m", "\u202egnp.exe", "a\nb", "\r", "\x07", "\x00", "\x7f", "\u2028"]


@pytest.fixture
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.usefixtures("_utc")
@pytest.mark.parametrize("row", SHOWN)
def test_each_event_is_shown_as_ever(row: dict[str, str]) -> None:
    event = json.loads(row["line"])
    assert render.line(event) == row["people"]
    assert render.line(event, width=90, colour=True) == row["coloured"]
    assert strace.line(event) == row["strace"]


def test_a_line_for_people() -> None:
    assert render.line(WRITE) == (
        '      12.500000    4011 busybox      WRITE           buf="hi\\n" fd=1 len=3'
    )
    told = render.line({"ts": 1.0, "evt": "FREE_SUM", "pid": -1, "meta": {"count": 3}})
    assert told.split() == ["1.000000", "FREE_SUM", 'meta={"count":', "3}"]


def test_the_time_of_day_is_in_a_zone() -> None:
    event = {"time": "2026-11-23T23:34:52.123456Z"}
    assert render.moment(event, UTC) == "23:34:52.123456"
    assert [render.moment(event, BERLIN, digits) for digits in (3, 0)] == [
        "00:34:52.123",
        "00:34:52",
    ]
    assert render.day(event, UTC) == "2026-11-23 Mon, UTC"
    assert render.day(event, BERLIN) == "2026-11-24 Tue, CET"
    assert render.day({"ts": 1.5}, UTC) is None


OPENAT: dict[str, Any] = {
    "ts": 1.5, "event": "TRACK_OPENAT", "pid": 42, "bin": "qemu-arm-static", "file": "/etc/passwd",
    "time": "2026-11-23T08:34:52.123456Z", "seq": 1, "tid": 43, "arch": "arm",
    "guest": "/bin/busybox",
}  # fmt: skip


WIDE = (
    '08:34:52.123456      42 busybox      TRACK_OPENAT    file="/etc/passwd" bin="qemu-arm-static"'
)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (None, WIDE),
        (120, WIDE),
        (80, '08:34:52.123      42 busybox    TRACK_OPENAT "/etc/passwd" bin="qemu-arm-static"'),
        (50, '08:34:52      42 TRACK_OPENAT "/etc/passwd" bin="…'),
        (20, "08:34:52      42 TR…"),
        (1, "…"),
        (0, ""),
    ],
)  # fmt: skip
def test_what_it_is_about_comes_first_at_any_width(columns: int | None, shown: str) -> None:
    assert render.line(OPENAT, width=columns, zone=UTC) == shown


def test_a_line_that_is_not_cut_has_the_whole_guest() -> None:
    event = OPENAT | {"guest": "/usr/bin/a-program-of-a-long-name"}
    assert " a-program-of-a-long-name " in render.line(event, zone=UTC)
    assert " a-program-o… " in render.line(event, width=120, zone=UTC)


def test_a_switch_is_of_the_process_that_it_is_credited_to() -> None:
    switch = {
        "ts": 1.5,
        "event": "SCHED_SWITCH",
        "prev_pid": 17,
        "next_pid": 43,
        "guest": "/bin/sh",
    }
    nobody, credited = render.line(switch), render.line(switch | {"pid": 42, "next_tgid": 42})
    assert nobody == "       1.500000         sh           SCHED_SWITCH    prev_pid=17 next_pid=43"
    assert credited == (
        "       1.500000      42 sh           SCHED_SWITCH    prev_pid=17 next_pid=43 next_tgid=42"
    )
    assert strace.line(switch) == "       1.500000 --- switch from 17 to 43 ---"
    assert strace.line(switch | {"pid": 42}).startswith("[pid 42] ")


def test_what_two_runs_have_in_common() -> None:
    assert render.plain(OPENAT) == 'TRACK_OPENAT file="/etc/passwd" bin="qemu-arm-static"'
    fork = {
        "ts": 1.5,
        "event": "TRACK_FORK",
        "parent": 42,
        "child": 44,
        "start": 1.5,
        "call": "vfork",
    }
    assert render.plain(fork) == 'TRACK_FORK call="vfork"'
    assert render.plain({"ts": 1.5, "event": "EXIT", "pid": 7, "code": 0}) == "EXIT code=0"
    known = {field.key for event in PUBLIC for field in event.fields} | {"next_tgid"}
    assert known >= render._OF_ONE_RUN


def test_colour_and_width() -> None:
    coloured = render.line(WRITE, width=40, colour=True)
    plain = render.line(WRITE, width=40)
    assert len(plain) == 40
    assert plain.endswith("…")
    assert coloured.endswith('"hi\\n"\033[2m fd…\033[0m'), "the rest is dim"
    for code in ("\033[0m", "\033[2m", "\033[36m"):
        assert code in coloured
        coloured = coloured.replace(code, "")
    assert coloured == plain
    assert width(render.line(WRITE | {"buf": "漢字" * 50}, width=70)) in {69, 70}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("key", ["buf", "file", "guest", "event", "argv"])
def test_nothing_drives_the_terminal(text: str, key: str) -> None:
    event = WRITE | {key: [text] if key == "argv" else text}
    for line in (render.line(event), render.line(event, width=200), strace.line(event)):
        assert all(char.isprintable() for char in line), line


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text())))
def test_no_event_does_harm(event: dict[str, Any]) -> None:
    event = json.loads(json.dumps({"event": "WRITE"} | event))
    for line in (render.line(event, width=80), strace.line(event)):
        assert all(char.isprintable() for char in line)


_CHOSEN = st.text(
    st.sampled_from('a/é漢\u0301\u0e31\ufe0f\u1160\u4dc0😀\t\x1b\n\\"') | st.characters()
)
_ABOUT = {"TRACK_OPENAT": "file", "EXEC": "filename", "READLINKAT": "path", "CONNECT": "addr",
          "BIND": "addr", "READ": "buf", "WRITE": "buf"}  # fmt: skip


@given(st.sampled_from(sorted(_ABOUT)), _CHOSEN, _CHOSEN, st.integers(0, 200))
def test_no_line_is_wider_than_the_terminal(
    name: str, about: str, guest: str, columns: int
) -> None:
    event = OPENAT | {"event": name, _ABOUT[name]: about, "guest": guest}
    plain, coloured = (
        render.line(json.loads(json.dumps(event)), width=columns, colour=colour)
        for colour in (False, True)
    )
    assert glibc_width(plain) <= columns
    assert re.sub("\033\\[[0-9]+m", "", coloured).rstrip() == plain


@given(st.sampled_from(sorted(_ABOUT)), _CHOSEN, st.integers(50, 200))
def test_the_beginning_of_what_it_is_about_is_seen(name: str, about: str, columns: int) -> None:
    event = OPENAT | {"event": name, _ABOUT[name]: about}
    shown = cut(render.quoted(json.loads(json.dumps(about))), 19).removesuffix("…")
    assert shown in render.line(json.loads(json.dumps(event)), width=columns)


def glibc_width(text: str) -> int:
    """Return the width by wcwidth(3), which terminals do as well."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    try:
        return sum(LIBC.wcwidth(ord(char)) for char in text)
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def test_no_character_is_wider_than_it_is_taken_for() -> None:
    assert [width(text) for text in ("e\u0301", "\u0e01\u0e31", "漢", "\u2764\ufe0f")] == [
        1,
        1,
        2,
        2,
    ]
    for block in range(0, 0x110000, 16):
        text = "".join(filter(str.isprintable, map(chr, range(block, block + 16))))
        assert glibc_width(text) <= width(text), f"{block:x}"


@given(st.text(alphabet="aé漢\u0301 "), st.integers(0, 9))
def test_what_is_cut_and_padded_fits(text: str, columns: int) -> None:
    text = unicodedata.normalize("NFC", text)
    assert width(cut(text, columns)) <= columns
    assert width(pad(cut(text, columns), columns)) == columns


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (WRITE, 'write(1, "hi\\n", 3) = ?'),
        (WRITE | {"call": "pwrite64", "truncated": True}, 'pwrite64(1, "hi\\n"..., 3) = ?'),
        (WRITE | {"event": "READ", "redacted": True}, "read(1, ?, ?) = 3"),
        ({"event": "TRACK_OPENAT", "file": "/etc/x"}, 'openat(AT_FDCWD?, "/etc/x", ?) = ?'),
        ({"event": "TRACK_OPENAT", "file": "", "fault": True}, "openat(AT_FDCWD?, ?, ?) = ?"),
        ({"event": "EXEC", "filename": "/bin/sh"}, 'execve("/bin/sh", ?) = ?'),
        ({"event": "TRACK_FORK", "parent": 5, "child": 6, "call": "vfork"}, "vfork() = 6"),
        ({"event": "SOCKET", "domain": 2, "type": 0o2000001},
         "socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, ?) = ?"),
        ({"event": "CONNECT", "addr": "127.0.0.1:80"}, 'connect(?, "127.0.0.1:80", ?) = ?'),
        ({"event": "MPROTECT", "read": 1, "write": 0, "exec": 1},
         "mprotect(?, ?, PROT_READ|PROT_EXEC) = ?"),
        ({"event": "SIGNAL_GENERATE", "sig": 11}, "--- SIGSEGV ---"),
        ({"event": "SIGNAL_GENERATE", "sig": 99}, "--- SIG99 ---"),
        ({"event": "EXIT", "code": 3, "signal": None}, "+++ exited with 3 +++"),
        ({"event": "EXIT", "code": None, "signal": 9}, "+++ killed by SIGKILL +++"),
        ({"event": "LOST", "count": 3}, '*** LOST {"count": 3} ***'),
    ],
)  # fmt: skip
def test_in_straces_manner(event: dict[str, Any], told: str) -> None:
    line = strace.line(event | {"ts": 1.5})
    pid = event.get("pid", event.get("parent"))
    assert line == (f"[pid {pid}] " if pid else "") + f"       1.500000 {told}"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("READ", "read(?, ?, ?) = ?"),
        ("CONNECT", "connect(?, ?, ?) = ?"),
        ("SOCKET", "socket(?, ?, ?) = ?"),
        ("EXIT", "+++ exited with ? +++"),
        ("TRACK_ADOPT", "+++ watched from here on (?): [?] +++"),
    ],
)
def test_what_a_line_lacks_is_not_known_to_strace_either(name: str, told: str) -> None:
    """A client may choose keys, and `fields: original` leaves some out."""
    assert strace.line({"event": name, "ts": 1.5}) == f"       1.500000 {told}"


@pytest.mark.parametrize(
    ("name", "row", "fault"),
    [
        ("READ", "({fd}, {size}) = ?", "READ: it has not the keys size"),
        ("MPROTECT", "({read|run}) = ?", "MPROTECT: it has not the keys read|run"),
        ("SIGNAL_GENERATE", "--- {sig:word} ---", "SIGNAL_GENERATE: there is no notation word"),
        ("SIGNAL_GENERATE", "({sig}) = ?", "SIGNAL_GENERATE: no call is its own"),
    ],
)
def test_a_row_that_cannot_be_shown_is_refused(name: str, row: str, fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        strace.parts(replace(BY_NAME[name], strace=row))


def test_columns_are_as_wide_as_a_terminal_shows_them() -> None:
    rows = [("測定", "1"), ("ab", "2")]
    assert columns(rows, ()) == "測定  1\nab    2\n"
