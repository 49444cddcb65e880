"""The books: four columns, and what is told of losses."""

from qmond.accounting import Accounts
from qmond.bpf.probes import Counter
from qmond.encode import Line
from qmond.events import NUMBER


def line(name: str) -> Line:
    return b"{}\n", NUMBER[name], 1, 1


def test_totals_have_what_the_kernel_and_the_daemon_saw() -> None:
    accounts = Accounts()
    accounts.made["START"] += 1
    accounts.count([line("START"), line("READ"), line("READ")], logged=True)
    accounts.count([line("READ")], logged=False)
    kernel = {"START": Counter(0, 0), "READ": Counter(5, 2), "WRITE": Counter(0, 0)}
    assert accounts.totals(kernel) == {
        "START": {"seen": 1, "written": 1, "lost": 0, "suppressed": 0},
        "READ": {"seen": 5, "written": 2, "lost": 3, "suppressed": 0},
    }


def test_a_loss_is_told_once_by_stage_and_event() -> None:
    accounts = Accounts()
    assert accounts.newly_lost({"READ": Counter(9, 0)}) == {}
    accounts.count([line("WRITE")], logged=False)
    assert accounts.newly_lost({"READ": Counter(9, 4)}) == {
        "ring": {"READ": 4},
        "log": {"WRITE": 1},
    }
    assert accounts.newly_lost({"READ": Counter(9, 4)}) == {}
    assert accounts.newly_lost({"READ": Counter(9, 5)}) == {"ring": {"READ": 1}}
