"""`qmonctl tail` and a daemon that is made up: what it asks for, prints and says."""

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from zoneinfo import ZoneInfo

import pytest
from peer import hello, peers

from qmond.ctl import main
from qmond.ctl.commandline import joined
from qmond.ctl.show.printing import Short, TerminalWidth
from qmond.ctl.show.text import pointed

OK = b'{"id":1,"ok":{}}\n'
END = b'{"id":1,"end":{"reason":"complete"}}\n'
OVER = b'{"id":1,"error":{"class":"Forbidden","message":"over"}}\n'


def line(seq: int, **keys: Any) -> bytes:
    event = {"ts": 1.5, "event": "EXEC", "pid": 42, "filename": "/bin/sh"} | keys
    return json.dumps({**event, "seq": seq}, separators=(",", ":")).encode() + b"\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def asked_by(path: Path, *words: str, status: int = 0, answer: bytes = OK + END) -> dict[str, Any]:
    """Run tail with words, and return the arguments of its request."""
    with peers(path, (hello(4), answer)) as asked:
        assert main(["--socket", str(path), "tail", *words]) == status
    (request,) = asked
    assert request["op"] == "tail"
    arguments: dict[str, Any] = request["args"]
    return arguments


# ---- options -------------------------------------------------------------------------------------

PAST = "--no-follow"


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ([PAST], {"last": 10}),
        ([PAST, "-n", "3"], {"last": 3}),
        ([PAST, "-n3"], {"last": 3}),
        ([PAST, "--lines", "3"], {"last": 3}),
        ([PAST, "--last", "3"], {"last": 3}),
        ([PAST, "--from-seq", "7"], {"from_seq": 7}),
        ([PAST, "-n", "3", "--event", "file,net", "--event", "-Connect"],
         {"last": 3, "events": ["file", "net", "-Connect"]}),
        ([PAST, "-n", "3", "--event=-SCHED_SWITCH"],
         {"last": 3, "events": ["all", "-SCHED_SWITCH"]}),
        ([PAST, "-n", "3", "--not-event", "read", "--not-event", "net,EXEC"],
         {"last": 3, "events": ["all", "-read", "-net", "-EXEC"]}),
        ([PAST, "-n", "3", "--event", "net", "--not-event", "BIND"],
         {"last": 3, "events": ["net", "-BIND"]}),
        ([PAST, "--since", "@1700000000"], {"since": "2023-11-14T22:13:20.000000Z"}),
        ([PAST, "--since", "2023-11-14T22:13:20+02:00", "--until", "2023-11-15T22:00:00.25Z"],
         {"since": "2023-11-14T20:13:20.000000Z", "until": "2023-11-15T22:00:00.250000Z"}),
        ([PAST, "--utc", "--since", "2023-11-14 22:13"], {"since": "2023-11-14T22:13:00.000000Z"}),
        ([PAST, "--since", "2023-11-14 22:13"], {"since": "2023-11-14T21:13:00.000000Z"}),
        ([PAST, "--until", "2023-11-14"], {"last": 10, "until": "2023-11-13T23:00:00.000000Z"}),
        ([PAST, "-n", "1", "--pid", "7", "--pid", "8", "--tree", "9", "--arch", "arm,i386",
          "--guest", "*/sh", "--where", "fd == 0", "--fields", "ts,event"],
         {"last": 1, "pids": [7, 8], "tree": 9, "arch": ["arm", "i386"], "guest": "*/sh",
          "where": "fd == 0", "fields": ["ts", "event"]}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("_berlin")
def test_options_are_asked_for(path: Path, words: list[str], arguments: dict[str, Any]) -> None:
    assert asked_by(path, *words) == arguments | {"follow": False}


@pytest.fixture
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_it_follows_unless_told_otherwise(path: Path) -> None:
    for words in ((), ("-f",), ("--follow",), ("--follow=once",), ("-fn", "0")):
        arguments = asked_by(path, *words, status=1)
        assert arguments == {"follow": True} | ({"last": 0} if "0" in words else {})
    day = ["--until", "2023-11-14T22:13:20Z"]
    assert asked_by(path, *day)["last"] == 10, "an end that is over needs a start"


def test_an_age_is_told_as_a_time(path: Path) -> None:
    for words in (("--since", "1h30m"), ("--since", "-90m"), ("--since", "90m ago")):
        since = asked_by(path, *words, PAST)["since"]
        late = datetime.now(UTC) - timedelta(minutes=90) - datetime.fromisoformat(since)
        assert timedelta() <= late < timedelta(seconds=30)


@pytest.mark.parametrize(
    ("since", "until", "days"),
    [
        ("22:00", "23:00", (27, 27)),
        ("22:00", "01:00", (27, 28)),
        ("22:00", "08:30", (27, 28)),
        ("07:00", "23:00", (28, 28)),
        ("2026-11-27", "23:00", (27, 28)),
    ],
)
def test_an_evening_that_is_over_was_yesterday(
    since: str, until: str, days: tuple[int, int], monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls(2026, 11, 28, 8, tzinfo=tz)

    monkeypatch.setattr("qmond.ctl.tail.datetime", Clock)
    asked = asked_by(path, PAST, "--utc", "--since", since, "--until", until)
    assert tuple(int(asked[key][8:10]) for key in ("since", "until")) == days


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--since", "soon"], "argument --since: a time such as 11:56, "),
        (["--until", "25:00"], "is expected, not '25:00'"),
        (["--since", ""], "is expected, not ''"),
        (["--since", "5m", "--until", "1h"], "--until: it is before --since"),
        (["-n", "x"], "argument -n/--lines/--last: a number of lines is expected, not 'x'"),
        (["-c", "-1"], "argument -c/--count: "),
        (["-n", "3", "--since", "5m"], "not allowed with"),
        (["-f", "--no-follow"], "not allowed with"),
        (["--json", "--strace"], "not allowed with"),
        (["-o", "xml"], "short"),
    ],
)
def test_wrong_words_are_told_with_what_is_expected(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--socket", "/nowhere", "tail", *words])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_value_may_begin_with_a_hyphen() -> None:
    words = ["tail", "--event", "-X", "--since", "-5m", "-n", "5", "--not-event", "--json"]
    assert joined(words) == ["tail", "--event=-X", "--since=-5m", *words[5:]]
    record = ["record", "--event", "-X", "--", "sh", "--event", "-c"]
    assert joined(record) == ["record", "--event=-X", *record[3:]]


# ---- what is printed -----------------------------------------------------------------------------


SHORT = b'%b       1.500000%b      42              %bEXEC           %b filename="/bin/sh"\n'


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ([], line(5)),
        (["--json"], line(5)),
        (["-o", "json", "--color", "always"], line(5)),
        (["--color", "always"], line(5)),
        (["-o", "short"], SHORT % (b"", b"", b"", b"")),
        (["-o", "short", "--color", "always"],
         SHORT % (b"\033[2m", b"\033[0m", b"\033[32m", b"\033[0m")),
        (["--strace"], b'[pid 42]        1.500000 execve("/bin/sh", ?) = ?\n'),
        (["--output", "strace"], b'[pid 42]        1.500000 execve("/bin/sh", ?) = ?\n'),
        (["-o", "cat"], b'EXEC filename="/bin/sh"\n'),
    ],
)  # fmt: skip
def test_the_form_is_told_by_o_and_not_by_the_colour(
    path: Path, words: list[str], printed: bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    asked_by(path, PAST, *words, answer=OK + line(5) + END)
    assert capfdbinary.readouterr().out == printed


@pytest.mark.usefixtures("_berlin")
def test_times_are_in_the_zone_that_is_asked_for(
    path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    came = OK + line(5, time="2023-11-14T23:13:20.123456Z") + END
    asked_by(path, PAST, "-o", "short", answer=came)
    asked_by(path, PAST, "-o", "short", "--utc", answer=came)
    asked_by(path, PAST, "-o", "strace", "--utc", answer=came)
    told = capfdbinary.readouterr().out.decode().splitlines()
    assert [text[:24].split("  ")[0] for text in told] == [
        "2023-11-15 Wed, CET",
        "00:13:20.123456",
        "2023-11-14 Tue, UTC",
        "23:13:20.123456",
        "[pid 42] 23:13:20.123456",
    ]


def test_a_day_has_a_line_of_its_own_where_it_is_another() -> None:
    now = datetime(2026, 3, 28, 12, tzinfo=UTC)
    short = Short(width=lambda: 16, colour=False, zone=ZoneInfo("Europe/Berlin"), now=now)

    def days(*moments: str) -> list[str]:
        shown = b"\n".join(short(line(1, time=moment)) for moment in moments).decode()
        return [text for text in shown.splitlines() if "-" in text]

    assert days("2026-03-28T11:00:00Z", "2026-03-28T22:59:59Z") == []
    assert days("2026-03-28T23:00:00Z", "2026-03-29T00:59:59Z") == ["2026-03-29 Sun,…"]
    assert days("2026-03-29T01:00:00Z") == ["2026-03-29 Sun,…"], "CEST begins"
    assert days("2026-03-29T21:59:59Z") == []
    assert b"\n" not in short(line(1)), "it has no time"


def test_the_width_is_asked_for_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sizes = iter([0.0, 0.05, 0.09, 0.1, 5.0]), iter([80, 50, 120])
    monkeypatch.setattr("shutil.get_terminal_size", lambda: SimpleNamespace(columns=next(sizes)))
    width = TerminalWidth(clock=lambda: next(clock))
    assert [width() for _ in range(5)] == [80, 80, 80, 50, 120]


@pytest.mark.parametrize(
    ("words", "events"),
    [
        ([], ["all", "-SCHED_SWITCH"]),
        (["--event=-READ"], ["all", "-READ", "-SCHED_SWITCH"]),
        (["--event", "all"], ["all"]),
        (["--event", "sched_switch"], ["sched_switch"]),
        (["-o", "cat"], None),
        (["--json"], None),
    ],
)
def test_switches_are_left_out_on_a_terminal_alone(
    path: Path, words: list[str], events: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert asked_by(path, PAST, *words).get("events") == events


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("short", " " * 53 + 'fd=1 buf="vm"'),
        ("cat", 'fd=1 buf="vm"'),
    ],
)
def test_keys_that_fields_leaves_out_are_not_shown(
    form: str, shown: str, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked_by(path, "--fields=fd,buf", PAST, "-o", form, answer=OK + b'{"fd":1,"buf":"vm"}\n' + END)
    assert capfd.readouterr().out.rstrip("\n") == shown


# ---- its end, and what is said -------------------------------------------------------------------


def test_it_ends_after_a_count(path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    asked_by(path, "-c", "2", answer=OK + line(5) + line(6) + line(7))
    assert capfdbinary.readouterr().out == line(5) + line(6)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ([], 1),
        (["-c", "5"], 1),
        (["--until", "+1h"], 1),
        (["--until", "5m"], 0),
        (["--no-follow"], 0),
    ],
)
def test_a_daemon_that_stops_is_told(
    path: Path, words: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_by(path, *words, status=status, answer=OK + line(5) + END)
    assert capsys.readouterr().err == ("qmonctl: the daemon stopped\n" if status else "")


@pytest.fixture
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = iter(range(100))  # when it does not end, that does
    monkeypatch.setattr("qmond.ctl.following.time", SimpleNamespace(sleep=lambda _: next(pauses)))


@pytest.mark.usefixtures("_short_pauses")
def test_it_comes_back_and_says_trouble_once(
    path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    lives = (
        (hello(4), OK + line(5) + b"{"),
        (hello(5), b""),  # it hangs up before it has taken the request
        (hello(3), b""),  # it has lines to write again
        (hello(5), OK + line(6) + END),
        (hello(6), OVER),
    )
    with peers(path, *lives) as asked:
        words = ["tail", "--follow=retry", "--not-event", "exit"]
        assert main(["--socket", str(path), *words]) == 1
    assert [request["args"]["events"] for request in asked] == [["all", "-exit"]] * 4
    assert [request["args"]["from_seq"] for request in asked] == [5, 6, 6, 7]
    out, said = capfdbinary.readouterr()
    assert out == line(5) + line(6)
    again, back = "trying again until it is back", "qmonctl: the daemon is back"
    assert said.decode().splitlines() == [
        f"qmonctl: {path}: the daemon hung up in the middle of a line; {again}",
        back,
        f"qmonctl: the daemon stopped; {again}",
        "qmonctl: over",
    ]


@pytest.mark.usefixtures("_short_pauses")
def test_with_retry_it_ends_at_its_time(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "until" in asked_by(path, "--follow=retry", "--until", "5m")
    assert capsys.readouterr().err == ""


def test_needs_the_number_to_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tail", "--follow=retry", "--fields", "buf"])
    assert caught.value.code == 2
    assert "add seq to --fields" in capsys.readouterr().err


def test_a_fault_of_an_expression_is_pointed_at(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"class": "BadArgument", "message": "where: column 4: unexpected", "column": 4}
    refused = json.dumps({"id": 1, "error": error}).encode() + b"\n"
    with pytest.raises(SystemExit) as caught:
        asked_by(path, "--where", "fd = 0", answer=refused)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(
        "qmonctl tail: error: where: column 4: unexpected\n"
        "  fd = 0\n"
        "     ^\n"
    )  # fmt: skip
    assert pointed("a" * 99 + "!" + "b" * 99, 100).splitlines() == [
        "…" + "a" * 39 + "!" + "b" * 28 + "…",
        " " * 40 + "^",
    ]
    assert pointed("\x1b漢 = 0", 4).splitlines() == ["\\x1b漢 = 0", " " * 7 + "^"]


RUNNING = {"pid": 42, "parents": [{"pid": 41, "comm": "sh"}], "arch": "arm", "guest": "/bin/sh"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pid", "42"], ""),
        (["--tree", "41", "--arch", "i386,arm", "--guest", "*/sh"], ""),
        (["--pid", "41"], "--pid 41"),
        (["--tree", "7"], "--tree 7"),
        (["--arch", "i386,mips", "--guest", "*/sh"], "--guest */sh --arch i386,mips"),
        (["--guest", "sh"], ""),
        (["--pid", "42", "--guest", "ash"], "--pid 42 --guest ash"),
    ],
)
def test_a_guest_that_does_not_run_is_waited_for(
    path: Path,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ps = json.dumps({"id": 1, "ok": [RUNNING]}).encode() + b"\n"
    with peers(path, (hello(4), ps, OK.replace(b"1", b"2") + line(5))) as asked:
        assert main(["--socket", str(path), "tail", "-c1", *words]) == 0
    assert [request["op"] for request in asked] == ["ps", "tail"]
    told = f"qmonctl: no running guest matches {said}; waiting for one\n"
    assert capsys.readouterr().err == (told if said else "")


def test_who_asks_for_the_past_waits_for_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert asked_by(path, "--pid", "7", "--no-follow")["pids"] == [7]
    assert asked_by(path, "-c", "1", answer=OK + line(5))["follow"], "it asks for any guest"
