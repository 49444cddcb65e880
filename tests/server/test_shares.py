"""Shares of something by user."""

from qmond.server.shares import Shares


def test_shares_are_each_users_own() -> None:
    now = 0.0
    shares = Shares(0.5, 1.0, lambda: now)
    shares[1].spend(2.0)
    assert shares[1].wait() == 2.0
    assert shares[2].wait() == 0.0
    now = 3.0
    assert shares[1].wait() == 0.0
