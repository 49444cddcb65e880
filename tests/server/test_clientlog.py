"""The messages about clients: each has what a program needs, and nobody can flood the journal."""

import logging
from collections import Counter

import pytest

from qmond.errors import RequestError
from qmond.server.access import Peer
from qmond.server.clientlog import ClientLog
from qmond.systemd.messages import MessageId

SLOW = RequestError("TooSlow", "less than 16 KiB was read in 30 s")


def peer(uid: int) -> Peer:
    return Peer(4711, uid, 100, frozenset())


def test_a_cut_off_has_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    ClientLog().cut_off(peer(1000), SLOW, 7)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "client is cut off: pid 4711, uid 1000, gid 100: TooSlow: less than 16 KiB was read in 30 s"
    )
    assert dict(vars(record)["journal"]) == {
        "MESSAGE_ID": MessageId.CLIENT_CUT_OFF,
        "QMOND_CLIENT_PID": 4711,
        "QMOND_CLIENT_UID": 1000,
        "QMOND_DROPPED": 7,
        "QMOND_REASON": "TooSlow",
    }


def test_what_a_user_does_too_often_is_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    log = ClientLog(lambda: now)
    for _ in range(1000):
        log.connected(peer(1000))
        log.cut_off(peer(1000), SLOW, 0)
    log.cut_off(peer(1000), RequestError("Timeout", "silent"), 0)
    log.cut_off(peer(1001), SLOW, 0)
    said = [record.getMessage() for record in caplog.records]
    assert Counter(text.split(":")[0] for text in said) == {
        "client connected": 5,
        "client is cut off": 7,
    }, "another user's, and another reason's, are logged all the same"
    log.check()
    assert len(caplog.records) == len(said)
    now = 61.0
    log.check()
    log.check()
    (told,) = caplog.records[len(said) :]
    assert told.getMessage().endswith("too many to log: 995 TooSlow, 995 connected")
    assert told.levelname == "WARNING"
    log.cut_off(peer(1000), SLOW, 0)
    assert "is cut off" in caplog.records[-1].getMessage(), "once a minute"


def test_who_only_connects_often_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    log = ClientLog()
    for _ in range(9):
        log.connected(peer(0))
    log.tell()
    assert caplog.records[-1].getMessage().endswith("too many to log: 4 connected")
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_many_users_cannot_flood_it_and_root_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = ClientLog(lambda: now)
    for uid in range(1, 5000):
        log.cut_off(peer(uid), SLOW, 0)
    assert len(caplog.records) == 60
    log.cut_off(peer(0), SLOW, 0)
    assert len(caplog.records) == 61
