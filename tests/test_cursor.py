"""Where a client goes on after a restart of the daemon."""

from typing import Any

import pytest

from qmond.cursor import Choice, Cursor
from qmond.errors import ProtocolError, QmondError, RequestError

NOTHING = Choice()


def about(newest: int, boot_id: str = "b") -> dict[str, Any]:
    return {"boot_id": boot_id, "newest": newest}


def line(seq: int) -> bytes:
    return b'{"ts":1.000000,"event":"READ","buf":"\\"seq\\":9","seq":%d,"pid":1}' % seq


def start_of(cursor: Cursor, newest: int, boot_id: str = "b") -> int | None:
    return cursor.ask(about(newest, boot_id), NOTHING).get("from_seq")


def test_begins_with_what_comes() -> None:
    cursor = Cursor({"pids": [7]})
    asked = cursor.ask(about(4), NOTHING)
    assert asked == {"pids": [7], "from_seq": 5, "last": None, "since": None}
    assert start_of(cursor, 9) == 5, "nothing has come yet"
    assert Cursor({"last": 0}).ask(about(4), NOTHING)["from_seq"] == 5
    assert start_of(Cursor({}), 0) == 1


@pytest.mark.parametrize("past", [{"last": 3}, {"since": "5m"}])
def test_a_past_is_asked_for_until_a_line_has_come(past: Choice) -> None:
    cursor = Cursor(past)
    assert cursor.ask(about(4), NOTHING) == past
    assert cursor.ask(about(9), NOTHING) == past
    cursor.take(line(8))
    assert cursor.ask(about(9), NOTHING) == {"from_seq": 9, "last": None, "since": None}


def test_a_number_to_begin_with_is_a_place_of_its_own() -> None:
    """A program that has stored it may meet a daemon that was killed before any line has come."""
    cursor = Cursor({"from_seq": 100})
    assert cursor.ask(about(120), NOTHING) == {"from_seq": 100}
    assert start_of(cursor, 130) == 100
    for _ in range(5):
        with pytest.raises(ProtocolError):
            start_of(cursor, 80)
    assert start_of(cursor, 80) == 81
    assert Cursor({"from_seq": 100}).ask(about(80), NOTHING) == {"from_seq": 100}, "refused"


def test_another_boot_begins_with_its_first_line() -> None:
    for past in (Choice(), Choice(last=5)):
        cursor = Cursor(past)
        cursor.ask(about(40), NOTHING)
        if not past:
            cursor.take(line(41))
        assert start_of(cursor, 3, "c") == 1
        cursor.take(line(1))
        assert start_of(cursor, 3, "c") == 2


def test_lines_of_its_own_stream_have_other_numbers() -> None:
    cursor = Cursor({})
    cursor.ask(about(4), NOTHING)
    cursor.take(b'{"ts":1.000000,"event":"DROPPED","count":3,"time":"t","seq":8}')
    assert start_of(cursor, 20) == 5
    cursor.take(b'{"ts":1.000000,"event":"GAP","from_seq":5,"to_seq":11}')
    assert start_of(cursor, 20) == 12
    cursor.take(b'{"seq":13}')
    assert start_of(cursor, 20) == 14, "fields may leave the number alone"


def test_waits_for_a_daemon_that_was_killed() -> None:
    cursor = Cursor({})
    cursor.ask(about(8), NOTHING)
    for _ in range(2):
        cursor.take(line(10))
        for _ in range(5):
            with pytest.raises(ProtocolError, match="still writing the lines again"):
                start_of(cursor, 9)
        assert start_of(cursor, 10) == 11


def test_does_not_wait_for_ever() -> None:
    cursor = Cursor({})
    cursor.ask(about(10), NOTHING)
    for _ in range(5):
        with pytest.raises(ProtocolError):
            start_of(cursor, 7)
    assert start_of(cursor, 7) == 8
    assert start_of(cursor, 12) == 11, "it had done nothing again"
    for _ in range(5):
        with pytest.raises(ProtocolError):
            start_of(cursor, 7)
    assert start_of(cursor, 7) == 8
    cursor.take(line(8))
    assert start_of(cursor, 12) == 9


def test_changes_hold_for_one_time() -> None:
    cursor = Cursor({"events": ["READ"], "pids": [1]})
    asked = cursor.ask(about(4), {"events": ["EXIT"], "last": 2})
    assert asked == {"events": ["EXIT"], "pids": [1], "last": 2}
    cursor.take(line(4))
    asked = cursor.ask(about(4), {"last": 2})
    assert asked == {
        "events": ["READ"],
        "pids": [1],
        "from_seq": 5,
        "last": None,
        "since": None,
    }


def test_an_iterator_serves_more_than_once() -> None:
    cursor = Cursor({"events": iter(["READ"]), "fields": iter(["seq"])})
    for _ in range(2):
        asked = cursor.ask(about(4), {"pids": iter([1])})
        assert (asked["events"], asked["fields"], asked["pids"]) == (["READ"], ["seq"], [1])


def test_what_is_worth_another_try() -> None:
    cursor = Cursor({})
    broken, refused = QmondError("x: No such file"), RequestError("Failed", "no")
    assert not cursor.may_retry(broken), "there was none to begin with"
    assert not cursor.may_retry(refused)
    cursor.ask(about(4), NOTHING)
    assert cursor.may_retry(broken)
    assert cursor.may_retry(ProtocolError("the daemon hung up"))
    assert not cursor.may_retry(RequestError("BadArgument", "no"))
    assert cursor.may_retry(refused), "a reader may start the next time"
    assert cursor.may_retry(RequestError("TooManyReaders", "no"))


@pytest.mark.parametrize("choice", [{"fields": ["buf"]}, {"follow": False}])
def test_refuses_what_has_no_place(choice: Choice) -> None:
    cursor = Cursor({})
    cursor.ask(about(4), NOTHING)
    for asking, changes in ((cursor, choice), (Cursor(choice), NOTHING)):
        with pytest.raises(QmondError) as caught:
            asking.ask(about(4), changes)
        assert caught.value.hint
        assert not cursor.may_retry(caught.value)


def test_lines_without_numbers_are_a_fault() -> None:
    cursor = Cursor({"last": 1})
    cursor.ask(about(4), NOTHING)
    with pytest.raises(QmondError, match="no number") as caught:
        cursor.take(b'{"ts":1.000000,"event":"READ","buf":"\\"seq\\":9"}')
    assert "fields: full" in caught.value.hint
    assert not cursor.may_retry(caught.value)
