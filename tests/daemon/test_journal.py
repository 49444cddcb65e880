"""Two states in memory: whoever reads finds the one that became true, whole."""

import os
from collections import Counter
from struct import pack

from qmond.daemon.checkpoint import Journal, State
from qmond.log.files import Position


def state(consumed: int, seq: int) -> State:
    books = {"made": Counter(START=1), "written": Counter(READ=seq)}
    return State(consumed, seq, Position(7, 77, seq * 100), books)


def seen(journal: Journal, consumed: int) -> tuple[int, int, int] | None:
    if (found := journal.state(consumed)) is None:
        return None
    return (found.seq, found.end.offset, found.books["written"]["READ"])


def test_the_next_daemon_reads_what_the_last_one_wrote() -> None:
    journal = Journal()
    assert journal.state(0) is None
    for number in range(1, 6):
        journal.note(state(number * 64, number))
    after = Journal(os.dup(journal.fd))
    assert seen(after, 5 * 64) == (5, 500, 5)
    assert seen(after, 4 * 64) == (4, 400, 4), "the fifth batch had not become a fact"
    assert seen(after, 3 * 64) is None
    after.note(state(6 * 64, 6))
    assert seen(after, 6 * 64) == (6, 600, 6)
    assert seen(after, 5 * 64) == (5, 500, 5)
    journal.close()
    after.close()


def test_of_two_at_one_position_the_newer_is_true() -> None:
    journal = Journal()
    journal.note(state(64, 1))
    journal.note(state(64, 2))
    assert seen(journal, 64) == (2, 200, 2)
    journal.close()


def test_a_state_that_was_not_finished_is_none() -> None:
    journal = Journal()
    journal.note(state(64, 1))
    journal.note(state(64, 2))
    size = os.fstat(journal.fd).st_size // 2
    os.pwrite(journal.fd, pack("=Q", 0), 0)  # the newer one is in the first place
    assert size > 0
    assert seen(journal, 64) == (1, 100, 1)
    journal.close()
