"""Times as people write them, at a moment and in a zone that are given."""

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmond.ctl.when import parse_when, rfc3339

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 28, 12, 0, 0, 500000, tzinfo=BERLIN)


def at(text: str, *, now: datetime = NOW, end: bool = False) -> str:
    return rfc3339(parse_when(text, now=now, zone=BERLIN, end=end))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", "2026-11-28T11:00:00.500000Z"),
        ("today", "2026-11-27T23:00:00.000000Z"),
        ("Yesterday", "2026-11-26T23:00:00.000000Z"),
        ("11:56", "2026-11-28T10:56:00.000000Z"),
        ("9:05", "2026-11-28T08:05:00.000000Z"),
        ("11:56:03.123456", "2026-11-28T10:56:03.123456Z"),
        ("11:56:03.123", "2026-11-28T10:56:03.123000Z"),
        ("2026-11-23", "2026-11-22T23:00:00.000000Z"),
        ("2026-07-23", "2026-07-22T22:00:00.000000Z"),
        ("2026-11-23 08:30", "2026-11-23T07:30:00.000000Z"),
        ("2026-11-23T08:30:00.123456789", "2026-11-23T07:30:00.123456Z"),
        (" 2026-11-23  08:30:00 ", "2026-11-23T07:30:00.000000Z"),
        ("2026-11-23T08:30:00Z", "2026-11-23T08:30:00.000000Z"),
        ("2026-11-23 08:30:00 UTC", "2026-11-23T08:30:00.000000Z"),
        ("2026-11-23T08:30:00+02:00", "2026-11-23T06:30:00.000000Z"),
        ("2026-11-23T08:30-0130", "2026-11-23T10:00:00.000000Z"),
        ("@1700000000", "2023-11-14T22:13:20.000000Z"),
        ("@1700000000.123456", "2023-11-14T22:13:20.123456Z"),
        ("5m", "2026-11-28T10:55:00.500000Z"),
        ("-5m", "2026-11-28T10:55:00.500000Z"),
        ("5m ago", "2026-11-28T10:55:00.500000Z"),
        ("+5m", "2026-11-28T11:05:00.500000Z"),
        ("1h30m", "2026-11-28T09:30:00.500000Z"),
        ("2d", "2026-11-26T11:00:00.500000Z"),
        ("250ms", "2026-11-28T11:00:00.250000Z"),
    ],
)
def test_a_text_means_a_moment(text: str, moment: str) -> None:
    assert at(text) == moment
    assert at(text, end=True) == moment


def test_a_time_of_day_that_is_to_come_was_yesterday_but_ends_today() -> None:
    assert at("12:00:01") == "2026-11-27T11:00:01.000000Z"
    assert at("12:00:01", end=True) == "2026-11-28T11:00:01.000000Z"


@pytest.mark.parametrize(
    "text",
    [
        "", "soon", "25:00", "11:60", "11:5", "2026-13-01", "2026-11-31", "26-11-23", "@", "@x",
        "5", "m", "30m1h", "5m5m", "-5m ago", "5m  5s", "999999999d", "@999999999999",
        "2026-11-23T08:30:00+99:00", "0001-01-01", "9999-12-31T23:59-14:00", "2026-11-23 08:30 CET",
        "\u0661\u0661:\u0665\u0666", "\x00",
    ],
)  # fmt: skip
def test_what_is_no_time_is_told_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"a time such as 11:56, .* is expected, not"):
        at(text)


@given(st.text(alphabet="0123456789:-+.@TZ dhms ago", max_size=30))
def test_no_text_does_harm(text: str) -> None:
    try:
        found = parse_when(text, now=NOW, zone=BERLIN)
    except ValueError:
        return
    assert found.utcoffset() == timedelta()


def test_when_clocks_are_set_a_range_has_what_may_be_meant() -> None:
    ahead, back = "2026-03-29 02:30", "2026-10-25 02:30"
    assert [at(ahead), at(ahead, end=True)] == [
        "2026-03-29T00:30:00.000000Z",
        "2026-03-29T01:30:00.000000Z",
    ]
    assert [at(back), at(back, end=True)] == [
        "2026-10-25T00:30:00.000000Z",
        "2026-10-25T01:30:00.000000Z",
    ]
    second = datetime(2026, 10, 25, 2, 15, tzinfo=BERLIN, fold=1)
    assert at("02:20", now=second) == "2026-10-25T00:20:00.000000Z", "the first 02:20 is over"


@given(st.integers(10**15, 4 * 10**15))
def test_a_time_that_was_printed_can_be_given_back(micros: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    shown = moment.astimezone(BERLIN)
    later = moment + timedelta(hours=1)
    given_back = (
        parse_when(f"{shown:%Y-%m-%d %H:%M:%S.%f}", now=later, zone=BERLIN),
        parse_when(rfc3339(moment), now=later, zone=BERLIN),
        parse_when(f"{moment:%H:%M:%S.%f}", now=later, zone=UTC),
    )
    hour = timedelta(hours=1)
    assert moment - given_back[0] in {timedelta(), hour}, "an hour, where it came twice"
    assert given_back[1:] == (moment, moment)


def test_the_systems_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        found = [
            rfc3339(parse_when(text, now=NOW, zone=None, end=end))
            for text in ("11:56", "2026-03-29 02:30", "2026-10-25 02:30")
            for end in (False, True)
        ]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found == [
        "2026-11-28T10:56:00.000000Z",
        "2026-11-28T10:56:00.000000Z",
        "2026-03-29T00:30:00.000000Z",
        "2026-03-29T01:30:00.000000Z",
        "2026-10-25T00:30:00.000000Z",
        "2026-10-25T01:30:00.000000Z",
    ]
