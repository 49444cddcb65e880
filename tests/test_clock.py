"""Moments as wall time. That a step is noticed the root tests show, with the real clock."""

from qmond.clock import Anchor, StepWatch


def test_a_moment_is_rendered_by_where_the_wall_clock_stands() -> None:
    assert Anchor(1_700_000_000_000_000_000).utc(1_234_567_891) == b"2023-11-14T22:13:21.234567Z"
    assert Anchor(0).utc(999) == b"1970-01-01T00:00:00.000000Z"


def test_nothing_was_stepped() -> None:
    watch = StepWatch()
    assert not watch.stepped()
    watch.close()
