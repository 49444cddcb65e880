"""Events as people read them; what guests chose does not reach the terminal as it is."""

import json
import re
import time
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmond.ctl.show import render, strace
from qmond.ctl.show.text import cut, pad, width
from qmond.events.table import BY_NAME

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
        '      12.500000    4011 busybox      WRITE           fd=1 buf="hi\\n" len=3'
    )
    told = render.line({"ts": 1.0, "evt": "FREE_SUM", "pid": -1, "meta": {"count": 3}})
    assert told.split() == ["1.000000", "FREE_SUM", 'meta={"count":', "3}"]


@pytest.mark.usefixtures("_utc")
def test_the_time_of_day() -> None:
    assert render.moment({"time": "2026-11-23T08:34:52.123456Z"}) == "08:34:52.123456"


def test_colour_and_width() -> None:
    coloured = render.line(WRITE, width=60, colour=True)
    plain = render.line(WRITE, width=60)
    assert len(plain) == 60
    assert plain.endswith("…")
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
