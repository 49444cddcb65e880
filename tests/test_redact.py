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
from qmond.encode import Encoder
from qmond.redact import DEFAULT_RULES, Redactor, Rule, compile_pattern


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
        (Rule("x*"), ["moon moon", "/moon"]),
    ],
)
def test_where_a_rule_counts(rule: Rule, shown: list[str]) -> None:
    one, two = encoded(write(b"moon moon"), record("TRACK_OPENAT", b"/moon"), rules=(rule,))
    assert [one["buf"], two["file"]] == shown


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


@pytest.mark.parametrize("pattern", ["(", "(?<=x)y", r"\1", r"\Ax", r"x\z"])
def test_wrong_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        compile_pattern(pattern)
