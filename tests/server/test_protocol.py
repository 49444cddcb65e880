"""The protocol without a socket: whatever comes in, an answer or a clear refusal goes out."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmond.errors import RequestError
from qmond.events.table import NUMBER
from qmond.server.protocol import (
    LINE_MAX,
    LineReader,
    Request,
    answer,
    greeting,
    parse_request,
    parse_selection,
    refusal,
)

ALL = (1 << len(NUMBER)) - 1


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)), st.integers(1, 7))
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], size: int) -> None:
    data = b"".join(line + b"\n" for line in lines)
    reader = LineReader()
    found = [line for at in range(0, len(data), size) for line in reader.feed(data[at : at + size])]
    assert found == lines


def test_a_line_too_long_is_told_once_and_the_next_is_whole() -> None:
    reader = LineReader()
    chunks = [b"x" * 1000] * (LINE_MAX // 1000 + 50)
    found = [line for chunk in [*chunks, b"\nnext\n"] for line in reader.feed(chunk)]
    assert found == [None, b"next"]
    assert list(LineReader().feed(b"y" * LINE_MAX + b"\nz\n")) == [None, b"z"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"{", "BadJson"),
        (b"\xff", "BadJson"),
        (b"[]", "BadRequest"),
        (b"{}", "BadRequest"),
        (b'{"op":1}', "BadRequest"),
        (b'{"op":"tail","args":[]}', "BadRequest"),
        (b'{"op":"stop","id":%b}' % (b"[" * 254 + b"]" * 254), "BadRequest"),
    ],
)
def test_bad_requests_are_refused_by_class(line: bytes, kind: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(line)
    assert caught.value.kind == kind


def test_unknown_keys_of_a_message_are_ignored() -> None:
    assert parse_request(b'{"op":"status","id":[1],"later":true}') == Request("status", [1], {})


@given(st.binary(max_size=200))
def test_no_request_does_harm(line: bytes) -> None:
    try:
        request = parse_request(line)
        parse_selection(request.args, ALL, 0)
    except RequestError as error:
        assert json.loads(refusal(None, error))["error"]["message"]


SELECTION_KEYS = ["events", "pids", "tree", "arch", "guest", "where", "fields", "from_seq", "since"]
VALUES = st.none() | st.booleans() | st.integers() | st.sampled_from(["READ", "", "x"])


@given(
    st.dictionaries(
        st.sampled_from([*SELECTION_KEYS, "x"]), VALUES | st.lists(VALUES | st.lists(VALUES))
    )
)
def test_no_argument_does_harm(args: dict[str, Any]) -> None:
    try:
        selection = parse_selection(args, ALL, 0)
    except RequestError as error:
        assert error.kind == "BadArgument"
    else:
        assert selection.mask & ~ALL == 0


@pytest.mark.parametrize(
    ("args", "what"),
    [
        ({"event": ["READ"]}, "event: tail takes events, pids, tree"),
        ({"events": "READ"}, "a list of event names"),
        ({"events": ["REED"]}, "unknown: REED"),
        ({"events": ["IMAGE"]}, "unknown: IMAGE"),
        ({"events": ["WRITE"]}, "switched off in the daemon's config: WRITE$"),
        ({"events": ["file", "write"]}, "switched off in the daemon's config: WRITE$"),
        ({"events": ["net", "signal"]}, "switched off in the daemon's config: SOCKET, CONNECT"),
        ({"events": ["READ", "-file"]}, "events: no event is left: READ, -file"),
        ({"pids": ["1"]}, "a list of process IDs"),
        ({"pids": [True]}, "a list of process IDs"),
        ({"tree": 0}, "tree: a process ID is needed, from 1"),
        ({"tree": 1}, "tree: TRACK_FORK, TRACK_ADOPT, EXIT are switched off"),
        ({"arch": "arm"}, "arch: a list of guest architectures"),
        ({"guest": ""}, "guest: a glob"),
        ({"guest": "/bin/"}, "guest: no path of a program ends with a slash"),
        ({"where": "x" * 5000}, "where: a CEL expression of at most 4096"),
        ({"fields": ["fd", "fdd"]}, "fields: unknown: fdd"),
        ({"from_seq": 0}, "from_seq: a line's number is needed, from 1"),
        ({"from_seq": 1, "last": 2}, "only one of them can be the start"),
        ({"since": "yesterday"}, "since: a time such as"),
        ({"since": "2026-11-23T08:00:00"}, "since: a time such as"),
        ({"last": 10**6}, "last: a number of lines"),
        ({"until": "noon"}, "until: a time such as"),
        ({"until": "1970-01-01T00:00:00Z"}, "until: a time that is past needs one of from_seq"),
        ({"since": "5m", "until": "6m"}, "until: this is before since"),
        ({"follow": 0, "last": 1}, "follow: true or false"),
        ({"follow": False}, "follow: false needs one of from_seq, since, last"),
    ],
)
def test_wrong_arguments_of_tail_say_what_is_wrong(args: dict[str, Any], what: str) -> None:
    with pytest.raises(RequestError, match=what):
        parse_selection(args, 1 << NUMBER["READ"], 1000)


@pytest.mark.parametrize(
    "argument", [{"pids": [1]}, {"tree": 1}, {"arch": ["arm"]}, {"guest": "x"}]
)
def test_what_can_match_no_line_is_refused(argument: dict[str, Any]) -> None:
    for events in (["LOST"], ["START", "END", "CLOCK"], ["ALLOC_SUM"]):
        with pytest.raises(RequestError, match=f": no line of {', '.join(events)} has a") as caught:
            parse_selection({"events": events, **argument}, ALL, 0)
        assert caught.value.kind == "BadArgument"
        parse_selection({"events": [*events, "TRACK_ADOPT"], **argument}, ALL, 0)
    parse_selection({"events": ["SCHED_SWITCH"], **argument}, ALL, 0)
    parse_selection(argument, ALL, 0)
    needed = sum(1 << NUMBER[name] for name in ("TRACK_FORK", "TRACK_ADOPT", "EXIT", "LOST"))
    with pytest.raises(RequestError, match="no line of LOST, DROPPED, GAP has a"):
        parse_selection({"events": ["loss"], **argument}, needed, 0)


def test_suppressed_lines_are_of_a_process_and_of_no_guest() -> None:
    parse_selection({"events": ["SUPPRESSED"], "pids": [1]}, ALL, 0)
    with pytest.raises(RequestError, match="arch: no line of SUPPRESSED has an architecture"):
        parse_selection({"events": ["SUPPRESSED"], "arch": ["arm"]}, ALL, 0)


def test_a_group_brings_those_of_its_events_that_are_on() -> None:
    on = 1 << NUMBER["READ"] | 1 << NUMBER["EXEC"]
    found = parse_selection({"events": ["file", "exec", "-net"]}, on, 0)
    stream = 1 << NUMBER["DROPPED"] | 1 << NUMBER["GAP"]
    assert found.mask == on | stream
    assert parse_selection({"events": ["-EXEC"]}, on, 0).mask == 1 << NUMBER["READ"] | stream


def test_messages() -> None:
    assert json.loads(greeting({"version": "1"})) == {"qmond": {"protocol": 1, "version": "1"}}
    assert answer(Request("x", "i"), {"a": 1}) == b'{"id":"i","ok":{"a":1}}\n'
    assert answer(Request("x"), {}) == b'{"ok":{}}\n'
    error = refusal(7, RequestError("UnknownOp", "no"))
    assert json.loads(error) == {"id": 7, "error": {"class": "UnknownOp", "message": "no"}}
    wrong = RequestError("BadArgument", "no", line=2, column=5)
    told = json.loads(refusal(None, wrong))["error"]
    assert told == {"class": "BadArgument", "message": "no", "line": 2, "column": 5}
    again = RequestError.parse(told)
    assert (again.kind, str(again), again.line, again.column) == ("BadArgument", "no", 2, 5)


def test_moments_and_ages() -> None:
    moment = parse_selection({"since": "2026-11-23T08:00:00+01:00"}, ALL, 0).since
    assert moment == 1795417200
    assert parse_selection({"since": "5m"}, ALL, 1000).since == 700


@pytest.mark.parametrize(
    ("args", "follows"),
    [
        ({"until": "1970-01-01T00:20:00Z"}, True),
        ({"until": "1970-01-01T01:20:00+01:00", "follow": False, "last": 1}, False),
        ({"until": "5m", "last": 1}, False),
        ({"until": "5m", "since": "5m", "follow": True}, False),
        ({"until": "0s"}, True),  # some of its lines may still be on their way
    ],
)
def test_until_ends_it(args: dict[str, Any], follows: bool) -> None:  # noqa: FBT001
    selection = parse_selection(args, ALL, 1000)
    assert selection.until in {700, 1000, 1200}
    assert selection.follow == follows
    assert not selection.is_plain


@pytest.mark.parametrize(
    ("args", "plain"),
    [
        ({}, True),
        ({"events": ["READ"], "pids": [1]}, True),
        ({"last": 0}, False),
        ({"since": "1s"}, False),
        ({"where": "fd == 0"}, False),
        ({"guest": "*"}, False),
        ({"arch": []}, False),
        ({"tree": 1}, False),
        ({"fields": ["fd"]}, False),
    ],
)
def test_what_the_daemon_itself_can_choose(args: dict[str, Any], plain: bool) -> None:  # noqa: FBT001
    assert parse_selection(args, ALL, 0).is_plain == plain
