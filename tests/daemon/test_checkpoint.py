"""Two states in memory: whoever reads finds the one that was committed, whole."""

import os
from collections import Counter
from struct import pack

from qmond.daemon.checkpoint import Checkpoint, State
from qmond.log.files import Position


def state(consumed: int, seq: int) -> State:
    books = {"made": Counter(START=1), "written": Counter(READ=seq)}
    return State(consumed, seq, Position(7, 77, seq * 100), books)


def seen(checkpoint: Checkpoint, consumed: int) -> tuple[int, int, int] | None:
    if (found := checkpoint.state(consumed)) is None:
        return None
    return (found.seq, found.end.offset, found.books["written"]["READ"])


def test_the_next_daemon_reads_what_the_last_one_wrote() -> None:
    checkpoint = Checkpoint()
    assert checkpoint.state(0) is None
    for number in range(1, 6):
        checkpoint.note(state(number * 64, number))
    after = Checkpoint(os.dup(checkpoint.fd))
    assert seen(after, 5 * 64) == (5, 500, 5)
    assert seen(after, 4 * 64) == (4, 400, 4), "the fifth batch was not committed"
    assert seen(after, 3 * 64) is None
    after.note(state(6 * 64, 6))
    assert seen(after, 6 * 64) == (6, 600, 6)
    assert seen(after, 5 * 64) == (5, 500, 5)
    checkpoint.close()
    after.close()


def test_of_two_at_one_position_the_newer_is_true() -> None:
    checkpoint = Checkpoint()
    checkpoint.note(state(64, 1))
    checkpoint.note(state(64, 2))
    assert seen(checkpoint, 64) == (2, 200, 2)
    checkpoint.close()


def test_a_state_that_was_not_finished_is_none() -> None:
    checkpoint = Checkpoint()
    checkpoint.note(state(64, 1))
    checkpoint.note(state(64, 2))
    size = os.fstat(checkpoint.fd).st_size // 2
    os.pwrite(checkpoint.fd, pack("=Q", 0), 0)  # the newer one is in the first place
    assert size > 0
    assert seen(checkpoint, 64) == (1, 100, 1)
    checkpoint.close()
