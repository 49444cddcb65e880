"""The books: four columns, and what is told of losses."""

from collections import Counter as Counts

from qmond.bpf.probes import Counter, Statistic
from qmond.daemon.accounts import Accounts, Rates
from qmond.daemon.statistics import sums
from qmond.events.records import OTHERS


def accounts_of(kernel: dict[str, Counter]) -> Accounts:
    return Accounts(lambda: kernel)


def test_totals_have_what_the_kernel_and_the_daemon_saw() -> None:
    accounts = accounts_of({"START": Counter(0, 0), "READ": Counter(5, 2), "WRITE": Counter(0, 0)})
    accounts.made["START"] += 1
    accounts.count(Counts(START=1, READ=2), logged=True)
    accounts.count(Counts(READ=1), logged=False)
    assert accounts.totals() == {
        "START": {"seen": 1, "written": 1, "lost": 0, "suppressed": 0},
        "READ": {"seen": 5, "written": 2, "lost": 3, "suppressed": 0},
    }


def test_they_are_complete_when_everything_seen_has_come() -> None:
    accounts = accounts_of({"READ": Counter(5, 2)})
    accounts.count(Counts(READ=2), logged=True)
    assert not accounts.are_complete()
    accounts.count(Counts(READ=1), logged=False)
    assert accounts.are_complete()


def test_the_next_daemon_goes_on_with_the_books() -> None:
    accounts = accounts_of({"READ": Counter(5, 2)})
    accounts.count(Counts(READ=3), logged=True)
    after = accounts_of({"READ": Counter(5, 2)})
    after.resume(accounts.books())
    assert after.totals() == accounts.totals()


def test_a_loss_is_told_once_by_stage_and_event() -> None:
    kernel = {"READ": Counter(9, 0)}
    accounts = accounts_of(kernel)
    assert accounts.newly_lost() == {}
    accounts.count(Counts(WRITE=1), logged=False)
    kernel["READ"] = Counter(9, 4)
    assert accounts.newly_lost() == {"ring": {"READ": 4}, "log": {"WRITE": 1}}
    assert accounts.newly_lost() == {}
    kernel["READ"] = Counter(9, 5)
    assert accounts.newly_lost() == {"ring": {"READ": 1}}


def test_what_the_log_lacks_is_owed_until_it_is_told() -> None:
    accounts = accounts_of({"WRITE": Counter(9, 4)})
    accounts.count(Counts(LOST=1), logged=False)
    assert not accounts.owes_log(), "or each that is lost would make the next one"
    accounts.count(Counts(WRITE=2), logged=False)
    assert accounts.newly_lost(["ring"]) == {"ring": {"WRITE": 4}}
    assert accounts.owes_log()
    accounts.count(Counts(WRITE=3), logged=False)
    assert accounts.newly_lost() == {"log": {"LOST": 1, "WRITE": 5}}
    assert not accounts.owes_log()


def test_advice_names_the_key_to_change() -> None:
    kernel = {"READ": Counter(9, 0)}
    accounts = accounts_of(kernel)
    assert accounts.advice(4096) == []
    kernel |= {"READ": Counter(9, 2), "WRITE": Counter(90, 40)}
    accounts.count(Counts(READ=1), logged=False)
    ring, log = accounts.advice(4096)
    assert ring.startswith("42 events found no room in the ring: raise ring.size (4096), limit")
    assert "(WRITE)" in ring
    assert log.startswith("1 events could not be written: look at log.dir")


def test_rates_are_of_the_second_that_ended_last() -> None:
    rates = Rates()
    rates.count(Counts({7: 3}))
    assert (rates.rate(7), rates.total(7)) == (0, 3)
    rates.tick()
    rates.count(Counts({7: 1}))
    assert (rates.rate(7), rates.total(7)) == (3, 4)
    rates.forget([7, 8])
    assert (rates.rate(7), rates.total(7)) == (0, 0)


def test_statistics_are_summed_and_told_by_process() -> None:
    found = {7: Statistic(mmaps=2, max_pages=9, allocs=1), OTHERS: Statistic(mmaps=1, max_pages=4)}
    assert dict(sums(found, [], full=True)) == {
        "MMAP_SUM": {"count": 3, "max_pages": 9, "by_pid": {"7": 2, "others": 1}},
        "ALLOC_SUM": {"count": 1, "by_pid": {"7": 1}},
    }
    assert dict(sums(found, [], full=False))["MMAP_SUM"] == {"count": 3, "max_pages": 9}
    assert dict(sums({}, [], full=True)) == {}


def test_a_figure_that_is_not_complete_says_so_even_where_it_is_0() -> None:
    assert dict(sums({}, [7], full=True)) == {
        "FREE_SUM": {"count": 0, "by_pid": {}, "partial": [7]},
        "ALLOC_SUM": {"count": 0, "by_pid": {}, "partial": [7]},
    }
