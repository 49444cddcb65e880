"""Secrets are masked before a line goes anywhere, and nothing else is."""

import base64
import json
import time
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_encode import Ring, record, table

from qmond.bpf.ring import RingBuffer
from qmond.config.keys import parse_config
from qmond.config.rules import DEFAULT_RULES, Rule, compile_pattern
from qmond.errors import ConfigError
from qmond.events.records import RECORD_FORMAT, Flag
from qmond.events.table import BY_NAME, NUMBER
from qmond.lines.encoder import Encoder
from qmond.lines.masking import Allowance
from qmond.lines.redact import Redactor
from qmond.processes.table import Process


def encoded(*records: bytes, rules: tuple[Rule, ...] = DEFAULT_RULES) -> list[dict[str, Any]]:
    encoder = Encoder(redactor=Redactor(rules))
    encoder.begin()
    assert encoder.drain(cast("RingBuffer", Ring(*records)), table(encoder.forget))
    lines = bytes(encoder.data).splitlines(keepends=True)
    one_by_one, number = encoder.select((1 << 64) - 1, None)
    assert (one_by_one, number) == (b"".join(lines), len(lines)), "the index is right, too"
    return [json.loads(line) for line in lines]


def write(content: bytes) -> bytes:
    return record("WRITE", content, a=1, b=len(content))


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"user=me password=hunter2 x", "user=me password=***** x"),
        (b'{"api_key": "abc\\"d", "n": 1}', '{"api_key": "*****"d", "n": 1}'),
        (b"PASSWORD: hunter2\npassword: 3\n", "PASSWORD: *****\npassword: *****\n"),
        (b"GET / HTTP/1.1\r\nAuthorization: Basic YWJj\r\n\r\n",
         "GET / HTTP/1.1\r\nAuthorization: Basic *****\r\n\r\n"),
        (b"git clone https://me:tok3n@example.org/x", "git clone https://me:*****@example.org/x"),
        (b"-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc", "-----BEGIN RSA PRIVATE KEY-----*****"),
        (b"id AKIAABCDEFGHIJKLMNOP.", "id *****."),
        (b"root:$6$salt$0123456789abcdefghij:1", "root:*****:1"),
        (b"the password is good", "the password is good"),
        (b"a secretary: 5", "a secretary: 5"),
    ],
)  # fmt: skip
def test_what_the_shipped_rules_find(content: bytes, shown: str) -> None:
    before, found, after = encoded(write(b"before"), write(content), write(b"after"))
    assert (before["buf"], found["buf"], after["buf"]) == ("before", shown, "after")
    assert found["len"] == len(content)


def test_exact_bytes_do_not_give_it_away() -> None:
    (found,) = encoded(write(b"\xff password=hunter2 \xfe"))
    assert found["buf"] == "\ufffd password=***** \ufffd"
    assert base64.b64decode(found["buf_b64"]) == b"\xff password=***** \xfe"


def test_paths_are_texts_too() -> None:
    (found,) = encoded(record("TRACK_OPENAT", b"/srv/token=abc/x"))
    assert found["file"] == "/srv/token=*****"


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        (Rule("moon"), ["***** *****", "/*****"]),
        (Rule("m(oo)n"), ["m*****n m*****n", "/m*****n"]),
        (Rule("moon", events=("WRITE",)), ["***** *****", "/moon"]),
        (Rule("moon", path="/*"), ["moon moon", "/*****"]),
        (Rule("moon", path="/x*"), ["moon moon", "/moon"]),
        (Rule("moon", guest="*/sh"), ["moon moon", "/moon"]),
        (Rule("^moon"), ["***** moon", "/moon"]),
        (Rule("moon$"), ["moon *****", "/*****"]),
        (Rule("(?s)moon.*"), ["*****", "/*****"]),
    ],
)
def test_where_a_rule_counts(rule: Rule, shown: list[str]) -> None:
    one, two = encoded(write(b"moon moon"), record("TRACK_OPENAT", b"/moon"), rules=(rule,))
    assert [one["buf"], two["file"]] == shown


@pytest.mark.parametrize(
    ("glob", "is_masked"),
    [
        ("./sh", True),
        ("/opt/arm/*", True),
        ("sh", True),
        ("*arm*", True),
        ("ash", False),
        ("arm", False),
        ("/bin/*", False),
    ],
)
def test_the_guests_of_a_rule(glob: str, is_masked: bool) -> None:  # noqa: FBT001
    row = {"buf": "moon", "guest": "./sh", "guest_path": "/opt/arm/sh"}
    text = json.dumps(row, separators=(",", ":")).encode()
    masked = Redactor((Rule("moon", guest=glob),)).line(text, BY_NAME["WRITE"], b"moon")
    assert json.loads(masked)["buf"] == ("*****" if is_masked else "moon")


@given(st.lists(st.binary(max_size=60) | st.just(b"password=hunter2"), max_size=30))
def test_a_secret_among_any_others(contents: list[bytes]) -> None:
    contents = [content.replace(b"password", b"pass") for content in contents]
    contents = [*contents, b"password=hunter2", *contents]
    found = encoded(*map(write, contents))
    plain = encoded(*map(write, contents), rules=())
    assert len(found) == len(plain)
    at = len(contents) // 2
    assert found.pop(at)["buf"] == "password=*****"
    assert plain.pop(at)["buf"] == "password=hunter2"
    assert found == plain


def test_hostile_texts_take_no_longer() -> None:
    rule = Rule("(a+)+$")  # what backtracks takes for ever
    began = time.monotonic()
    assert encoded(write(b"a" * 5000 + b"!"), rules=(rule,))[0]["buf"].endswith("!")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "pattern",
    ["(", "(?<=x)y", r"\1", r"\Ax", r"x\z", "password|", "x*", "^", "$", "(?:)", r"\b", "(a?)"],
)
def test_wrong_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        compile_pattern(pattern)


def test_a_pattern_that_matches_nothing_everywhere_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"qmon.yaml:2: redact: is 'password\|'; .*: it match"):
        parse_config("redact:\n  - password|\n", "qmon.yaml")


# ---- what masking may take ---------------------------------------------------------------------

AMPLIFIED = b"://a:b@" * 36
"""Each `b` becomes five characters."""


def write_of(pid: int, content: bytes) -> bytes:
    return RECORD_FORMAT.pack(1, pid, pid, NUMBER["WRITE"], 0, Flag.COUNTED, 1, 7) + content


def test_masks_that_find_no_room_leave_the_texts_out() -> None:
    """A batch full of what becomes longer by masking, many times over."""
    encoder = Encoder(redactor=Redactor(DEFAULT_RULES))
    encoder.masking.allowance = Allowance(each=1e9, total=1e9)
    processes = table(encoder.forget)
    for _ in range(3):
        ring = Ring(*[write(b"://a:b@" * 2000)] * 60)
        while ring.consumed[0] != ring.produced[0]:
            encoder.begin()
            assert encoder.drain(cast("RingBuffer", ring), processes)
            assert len(encoder.data) <= 2 << 20
            for line in bytes(encoder.data).splitlines():
                found = json.loads(line)
                assert found["buf"] == ("" if found.get("withheld") else "://a:*****@" * 2000)


def test_a_tree_that_takes_too_long_has_no_texts_and_another_one_has() -> None:
    encoder = Encoder(redactor=Redactor(DEFAULT_RULES))
    encoder.masking.allowance = Allowance(each=0.0)
    processes = table(encoder.forget)
    for pid, tree in ((1, 1), (2, 1), (3, 3)):
        processes.adopt(Process(pid, tree=tree).rendered())
    secret, open_ = b"password=hunter2", b"open"

    def drained() -> list[tuple[int, str, bool]]:
        encoder.begin()
        texts = [(1, secret), (1, secret), (2, secret), (2, open_), (3, open_), (3, secret)]
        ring = Ring(*(write_of(pid, text) for pid, text in texts))
        assert encoder.drain(cast("RingBuffer", ring), processes)
        lines = map(json.loads, bytes(encoder.data).splitlines())
        return [(line["pid"], line["buf"], line.get("withheld", False)) for line in lines]

    masked, left_out = "password=*****", ("", True)
    encoder.masking.allowance._second = int(time.monotonic())
    assert drained() == [
        (1, masked, False), (1, *left_out), (2, *left_out), (2, "open", False),
        (3, "open", False), (3, masked, False),
    ]  # fmt: skip
    # in the same second they have no text at all, and nothing of it is looked through
    encoder.masking.allowance._second = int(time.monotonic())
    assert drained() == [(1, *left_out)] * 2 + [(2, *left_out)] * 2 + [
        (3, "open", False),
        (3, *left_out),
    ]
    encoder.masking.allowance._second = 0
    assert drained()[0] == (1, masked, False), "another second"


def test_all_trees_together_have_an_allowance() -> None:
    allowance = Allowance(each=1.0, total=0.0)
    allowance.renew()
    with allowance.of(1) as allowed:
        assert allowed
    with allowance.of(2) as allowed:
        assert not allowed


def test_a_command_line_counts_too() -> None:
    encoder = Encoder(redactor=Redactor(DEFAULT_RULES))
    encoder.masking.allowance = Allowance(each=0.0)
    process = Process(1, tree=1, argv=b"x\0--token=abc\0")
    assert encoder.masking.argv(process) == [b"x", b"--token=*****"]
    assert encoder.masking.argv(process) is None
    assert encoder.masking.argv(Process(2, tree=1, argv=b"open\0")) == [b"open"]


def test_a_fault_in_masking_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise ZeroDivisionError("a fault of its own")

    monkeypatch.setattr(Redactor, "line", fail)
    lines = encoded(write(b"open"), write(b"password=hunter2"), record("TRACK_OPENAT", b"/x\xff"))
    assert [line.get("withheld") for line in lines] == [True] * 3
    assert [line.get("buf", line.get("file")) for line in lines] == [""] * 3
    assert "file_b64" not in lines[2]
