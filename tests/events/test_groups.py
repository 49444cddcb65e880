"""Names of events and of their groups: which events they stand for."""

import time

import pytest

from qmond.events.fields import Group
from qmond.events.groups import MEANINGS, groups, resolve
from qmond.events.table import PUBLIC

PUBLIC_NAMES = [event.name for event in PUBLIC]
NET = [event.name for event in PUBLIC if event.group is Group.NET]


@pytest.mark.parametrize(
    ("words", "events"),
    [
        ([], []),
        (["EXEC", "READ", "READ"], ["EXEC", "READ"]),
        (["read", "Exec"], ["EXEC", "READ"]),
        (["net"], NET),
        (["NET", "EXEC"], ["EXEC", *NET]),
        (
            ["net", "-CONNECT", "-sendto"],
            [name for name in NET if name not in {"CONNECT", "SENDTO"}],
        ),
        (["-connect", "net"], [name for name in NET if name != "CONNECT"]),
        (["all"], PUBLIC_NAMES),
        (["default", "-all", "CONNECT"], None),
        (["-sched"], [name for name in PUBLIC_NAMES if name != "SCHED_SWITCH"]),
        (["default", "-SCHED_SWITCH"], [name for name in PUBLIC_NAMES if name != "SCHED_SWITCH"]),
        (["-net", "-Exec"], [name for name in PUBLIC_NAMES if name not in {"EXEC", *NET}]),
    ],
)
def test_words_stand_for_events_in_the_order_of_the_table(
    words: list[str], events: list[str] | None
) -> None:
    if events is None:
        with pytest.raises(ValueError, match="no event is left: default, -all, CONNECT"):
            resolve(words)
    else:
        assert resolve(words) == events


@pytest.mark.parametrize("word", ["XYZZY", "-XYZZY", "--xyz"])
def test_an_unknown_word_is_told_with_what_there_is(word: str) -> None:
    with pytest.raises(ValueError, match="unknown: ") as caught:
        resolve(["READ", word])
    told = str(caught.value)
    assert told.startswith(
        f"unknown: {word.removeprefix('-')}; there are the groups all, default, original, "
    )
    assert told.endswith(f"; and the events {', '.join(PUBLIC_NAMES)}")


@pytest.mark.parametrize(
    ("word", "close"),
    [("REED", "READ"), ("-reed", "READ"), ("nets", "net"), ("Proces", "process"), ("IMAGE", "")],
)
def test_an_unknown_word_is_told_with_those_that_are_like_it(word: str, close: str) -> None:
    with pytest.raises(ValueError, match="unknown: ") as caught:
        resolve([word])
    told, _, _ = str(caught.value).partition("; ")
    first, _, like = told.partition(", perhaps ")
    assert first == f"unknown: {word.removeprefix('-')}"
    assert close in like.split(" or ") if close else "PROCESS" not in like


@pytest.mark.parametrize("word", ["", "-"])
def test_an_empty_word_is_told(word: str) -> None:
    with pytest.raises(ValueError, match=r"^an empty name$"):
        resolve(["READ", word])


def test_only_the_callers_events_are_meant_and_named() -> None:
    names = ["EXIT", "EXEC", "CONNECT", "OF_A_LATER_VERSION"]
    assert "CONNECT" in NET
    assert resolve(["process"], names) == ["EXIT", "EXEC"]
    assert resolve(["-net"], names) == ["EXIT", "EXEC", "OF_A_LATER_VERSION"]
    assert resolve(["of_a_later_version"], names) == ["OF_A_LATER_VERSION"]
    with pytest.raises(ValueError, match="unknown: file, READ; there are the groups all, default, "
                       "original, process, net; and the events EXIT, EXEC, "):  # fmt: skip
        resolve(["file", "READ"], names)


def test_each_event_is_in_one_group_of_its_own_and_the_original_has_22() -> None:
    assert [event.name for event in PUBLIC if event.group is None] == []
    assert set(Group) <= MEANINGS.keys()
    assert len(groups()["original"]) == 22
    assert groups().keys() == MEANINGS.keys(), "each group has an event"
    assert not {name.lower() for name in PUBLIC_NAMES} & MEANINGS.keys()


def test_words_that_repeat_cost_no_time() -> None:
    began = time.process_time()
    assert resolve(["all", "-net"] * 30_000)
    assert time.process_time() - began < 0.5  # seconds, where each is looked for in a list
