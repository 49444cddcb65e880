"""What the daemon says of itself: journald's protocol, the handler, events in the journal, texts.

A datagram socket of the test's own stands in for journald: what it gets is parsed as the protocol's
specification has it. tests/root/test_journald.py does the same with a real journald.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from struct import unpack_from
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmond.config.keys import Journal, parse_config
from qmond.events.table import NUMBER
from qmond.lines.encoder import Encoder
from qmond.outputs.journal import Forward
from qmond.systemd.journald import Journald, encode
from qmond.systemd.messages import JournalHandler, MessageId, about

ROOT = Path(__file__).parents[1]
ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
Fields = dict[str, list[bytes]]


def parse(message: bytes) -> Fields:
    """Read a message as systemd.io/JOURNAL_NATIVE_PROTOCOL has it."""
    fields: Fields = {}
    at = 0
    while at < len(message):
        end = message.index(b"\n", at)
        name, is_plain, value = message[at:end].partition(b"=")
        at = end + 1
        if not is_plain:
            (size,) = unpack_from("<Q", message, at)
            value = message[at + 8 : at + 8 + size]
            assert message[at + 8 + size : at + 9 + size] == b"\n"
            at += 9 + size
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name), name
        fields.setdefault(name.decode(), []).append(value)
    return fields


class StandIn:
    """Takes messages where journald would."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(0)

    def get(self) -> list[Fields]:
        """Return all messages that wait."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors, flags, _ = socket.recv_fds(self._socket, 1 << 20, 1)
                assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
                for fd in descriptors:
                    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == ALL_SEALS
                    with open(fd, "rb") as file:
                        data = os.pread(file.fileno(), 1 << 24, 0)
                found.append(parse(data))
        return found

    def close(self) -> None:
        """Be gone."""
        self._socket.close()
        Path(self.address).unlink()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[StandIn]:
    stand_in = StandIn(tmp_path / "journal")
    yield stand_in
    with contextlib.suppress(FileNotFoundError):
        stand_in.close()


@pytest.fixture
def way(journal: StandIn) -> Iterator[Journald]:
    journald = Journald(journal.address)
    yield journald
    journald.close()


HARD = "a\nPRIORITY=0\nMESSAGE_ID=" + "0" * 32 + "\n\x00\xff\r\n=\n"


# ---- the protocol ------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.binary())))
def test_no_value_can_forge_a_field(fields: list[tuple[str, bytes]]) -> None:
    expected: Fields = {}
    for name, value in fields:
        expected.setdefault(name, []).append(value)
    assert parse(encode(fields)) == expected


def test_a_message_of_any_size_arrives(way: Journald, journal: StandIn) -> None:
    for size in (0, 1, 100_000, 3 << 20):
        text = "x\n" * size
        way.send([("MESSAGE", text), ("N", size)])
        assert journal.get() == [{"MESSAGE": [text.encode()], "N": [b"%d" % size]}]


def test_names_of_files_arrive_as_their_bytes(way: Journald, journal: StandIn) -> None:
    way.send([("MESSAGE", os.fsdecode(b"/tmp/\xff\xfe"))])
    assert journal.get() == [{"MESSAGE": [b"/tmp/\xff\xfe"]}]


def test_a_journald_that_hangs_delays_nobody(way: Journald, journal: StandIn) -> None:
    began = time.monotonic()
    for number in range(2000):
        way.send([("N", number)])
    assert time.monotonic() - began < 1
    found = journal.get()
    while more := take(way, journal):
        found += more
    numbers = [int(fields["N"][0]) for fields in found]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) + way.lost == 2000
    assert len(numbers) > 256


def take(way: Journald, journal: StandIn) -> list[Fields]:
    way.flush()
    return journal.get()


def test_where_there_is_no_journald_it_is_said(way: Journald, journal: StandIn) -> None:
    journal.close()
    with pytest.raises(FileNotFoundError):
        way.send([("MESSAGE", "x")])


# ---- the handler -------------------------------------------------------------------------------


@pytest.fixture
def logger(way: Journald) -> Iterator[logging.Logger]:
    found = logging.getLogger("qmond.of_test_messages")
    handler = JournalHandler(way)
    found.addHandler(handler)
    found.setLevel(logging.DEBUG)
    yield found
    found.removeHandler(handler)


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", b"7"), ("info", b"6"), ("warning", b"4"), ("error", b"3"), ("critical", b"2")],
)
def test_a_level_is_a_priority(
    logger: logging.Logger, journal: StandIn, level: str, priority: bytes
) -> None:
    getattr(logger, level)("said %s", "so")
    (fields,) = journal.get()
    assert fields["PRIORITY"] == [priority]
    assert fields["MESSAGE"] == [b"said so"]
    assert fields["SYSLOG_IDENTIFIER"] == [b"qmond"]
    assert fields["CODE_FILE"] == [__file__.encode()]
    assert "MESSAGE_ID" not in fields


def test_a_kind_of_message_has_its_id_and_fields(logger: logging.Logger, journal: StandIn) -> None:
    extra = about(MessageId.LOSS, stage="ring", lost=5, event=["READ", "WRITE"])
    logger.warning("lost", extra=extra)
    (fields,) = journal.get()
    assert fields["MESSAGE_ID"] == [MessageId.LOSS.encode()]
    assert fields["QMOND_STAGE"] == [b"ring"]
    assert fields["QMOND_LOST"] == [b"5"]
    assert fields["QMOND_EVENT"] == [b"READ", b"WRITE"]


def test_a_hostile_text_stays_one_text(logger: logging.Logger, journal: StandIn) -> None:
    logger.info("%s", HARD, extra=about(MessageId.CLIENT_CUT_OFF, client_pid=HARD))
    (fields,) = journal.get()
    assert fields["MESSAGE"] == fields["QMOND_CLIENT_PID"] == [HARD.encode()]
    assert fields["PRIORITY"] == [b"6"]
    assert fields["MESSAGE_ID"] == [MessageId.CLIENT_CUT_OFF.encode()]


def test_an_exception_is_told_with_its_trace(logger: logging.Logger, journal: StandIn) -> None:
    try:
        int("why\nnot")
    except ValueError:
        logger.exception("it failed")
    (fields,) = journal.get()
    assert fields["MESSAGE"][0].startswith(b"it failed\nTraceback")


def test_without_journald_each_line_has_its_level(
    logger: logging.Logger, journal: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.close()
    logger.warning("one\n<0>two\r<0>three")
    assert capsys.readouterr().err == "<4>one\n<4><0>two\n<4><0>three\n"


def test_what_had_to_wait_is_sent_later(
    logger: logging.Logger, journal: StandIn, way: Journald
) -> None:
    for number in range(200):
        logger.info("%d", number)
    found = journal.get()
    for _ in range(200):
        logger.handlers[0].flush()
        found += journal.get()
    assert [int(fields["MESSAGE"][0]) for fields in found] == list(range(200))
    assert way.lost == 0


# ---- which of the two --------------------------------------------------------------------------

SAY = """
import logging, os, socket, sys
from qmond.systemd import journald
from qmond.systemd import messages
journald.Journald.__init__.__defaults__ = (sys.argv[1],)
if sys.argv[2] == "journal":
    found = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
messages.set_up("INFO")
logging.getLogger("qmond.x").warning("said")
messages.complain(messages.MessageId.BAD_CONFIG, "a: wrong\\nb: wrong", prefix="qmond: ")
"""


def say(journal: StandIn, kind: str, stream: str = "8:1") -> str:
    return subprocess.run(
        [sys.executable, "-c", SAY, journal.address, kind],
        env=os.environ | {"JOURNAL_STREAM": stream},
        capture_output=True,
        text=True,
        check=True,
    ).stderr


def test_the_journal_gets_messages_where_stderr_is_its_own(journal: StandIn) -> None:
    assert say(journal, "journal") == ""
    said, complained = journal.get()
    assert said["MESSAGE"] == [b"said"]
    assert complained["MESSAGE"] == [b"a: wrong\nb: wrong"]
    assert complained["MESSAGE_ID"] == [MessageId.BAD_CONFIG.encode()]
    assert complained["PRIORITY"] == [b"2"]


@pytest.mark.parametrize("stream", ["", "8:1", "x"])
def test_stderr_gets_them_otherwise(journal: StandIn, stream: str) -> None:
    """$JOURNAL_STREAM may be inherited, with stderr sent elsewhere."""
    assert say(journal, "", stream) == "qmond: WARNING: said\nqmond: a: wrong\nb: wrong\n"
    assert journal.get() == []


# ---- events in the journal ---------------------------------------------------------------------


def batch(*lines: dict[str, Any]) -> Encoder:
    encoder = Encoder()
    for line in lines:
        text = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        name = line.get("event") or line["evt"]
        encoder.append(text, NUMBER[name], *[line["pid"] & 0xFFFFFFFF] * 2)
    return encoder


def forward(way: Journald, text: str) -> Forward:
    return Forward(parse_config(f"journal: {text}", "x").journal, way)


def test_by_default_no_event_goes_there(way: Journald, journal: StandIn) -> None:
    events = Forward(Journal(), way)
    events.take(batch({"event": "EXEC", "pid": 1}))
    events.tell()
    assert journal.get() == []


def test_chosen_events_do_without_content(way: Journald, journal: StandIn) -> None:
    events = forward(way, "{events: [EXEC, READ, ALLOC_SUM]}")
    confession = 'hush","event":"EXEC'
    events.take(
        batch(
            {"ts": 1.5, "event": "EXEC", "pid": 7, "filename": HARD, "seq": 3},
            {"ts": 1.5, "event": "WRITE", "pid": 7, "buf": confession},
            {"ts": 1.6, "event": "READ", "pid": 8, "buf": confession, "len": 4, "seq": 5},
            {"ts": 1.7, "evt": "ALLOC_SUM", "pid": -1, "meta": {}},
        )
    )
    executed, read, allocated = journal.get()
    assert executed["MESSAGE_ID"] == [MessageId.EVENT.encode()]
    assert (executed["QMOND_EVENT"], executed["QMOND_PID"]) == ([b"EXEC"], [b"7"])
    assert executed["QMOND_SEQ"] == [b"3"]
    assert executed["PRIORITY"] == [b"6"]
    assert json.loads(executed["MESSAGE"][0])["filename"] == HARD
    assert json.loads(read["MESSAGE"][0])["redacted"] is True
    assert b"hush" not in read["MESSAGE"][0]
    assert allocated["QMOND_EVENT"] == [b"ALLOC_SUM"]
    assert "QMOND_SEQ" not in allocated


def test_no_more_than_the_rate_and_the_rest_is_told(
    way: Journald, journal: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    events = forward(way, "{events: [EXEC], rate: 5/s}")
    for first in range(0, 100, 10):
        events.take(batch(*({"event": "EXEC", "pid": first + n} for n in range(10))))
    assert [fields["QMOND_PID"] for fields in journal.get()] == [[b"%d" % n] for n in range(5)]
    events.tell()
    events.tell()
    (told,) = caplog.records
    assert told.message.startswith("95 events are in the log and not in the journal: 95 above")
    journal_fields = dict(vars(told)["journal"])
    assert journal_fields["MESSAGE_ID"] == MessageId.HELD_BACK
    assert journal_fields["QMOND_HELD_BACK"] == 95
    time.sleep(0.5)
    events.take(batch(*({"event": "EXEC", "pid": n} for n in range(10))))
    assert 2 <= len(journal.get()) <= 4


def test_a_reload_chooses_other_events(way: Journald, journal: StandIn) -> None:
    events = forward(way, "{events: [EXEC]}")
    events.configure(parse_config("journal: {events: [EXIT]}", "x").journal)
    events.take(batch({"event": "EXEC", "pid": 1}, {"event": "EXIT", "pid": 2}))
    assert [fields["QMOND_EVENT"] for fields in journal.get()] == [[b"EXIT"]]


def test_without_journald_that_is_told_once(
    way: Journald, journal: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    journal.close()
    events = forward(way, "{events: [EXEC]}")
    for _ in range(3):
        events.take(batch({"event": "EXEC", "pid": 1}))
    (warning,) = caplog.records
    assert warning.message == "journal.events: there is no journald: No such file or directory"


# ---- what is written about them ----------------------------------------------------------------


def test_every_id_is_in_the_page_and_in_the_catalog() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    rows = re.findall(r"^\| ([A-Z_]+) \| `([0-9a-f]{32})` \|", page, re.MULTILINE)
    assert dict(rows) == {kind.name: kind.value for kind in MessageId}
    catalog = (ROOT / "packaging/systemd/qmond.catalog").read_text()
    assert re.findall(r"^-- (\S+)$", catalog, re.MULTILINE) == list(MessageId)


def test_journalctl_takes_the_catalog(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    (folder / "qmond.catalog").write_bytes((ROOT / "packaging/systemd/qmond.catalog").read_bytes())
    command = ["journalctl", f"--root={tmp_path}"]
    done = subprocess.run(
        [*command, "--update-catalog"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    listed = subprocess.run(
        [*command, "--list-catalog"], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[0] for line in listed.splitlines()] == sorted(MessageId)
    assert "qmond: Events were lost: the ring was full" in listed
