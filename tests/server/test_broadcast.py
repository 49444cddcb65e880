"""The memory between core and front: whole frames or none, and no harm from what is no frame."""

import fcntl
import json
import mmap
import os
import random
import subprocess
import threading
import time
from pathlib import Path

import pytest
from qmond._encode import lib

from qmond.events.table import NUMBER
from qmond.lines.build import preamble
from qmond.lines.encoder import Encoder
from qmond.log.files import Position
from qmond.server.broadcast import BrokenShareError, Frames, Pids, Share

ROOT = Path(__file__).parents[2]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
PAGE = 4096
SMALL = 16 * PAGE
HERE = Position(1, 2, 3)
ALL = (1 << 64) - 1


def batch(first: int, count: int, size: int = 0) -> Encoder:
    """Return so many lines with their numbers, each padded to some size."""
    encoder = Encoder(seq=first)
    for seq in range(first, first + count):
        line = json.dumps({"seq": seq, "pad": "x" * size}).encode() + b"\n"
        encoder.append(line, NUMBER["READ" if seq % 2 else "WRITE"], seq, seq + 1)
    return encoder


def put(share: Share, encoder: Encoder) -> None:
    share.put(encoder, HERE, Position(1, 2, 4))
    share.tell(encoder.seq, Position(1, 2, 4))


def seqs(lines: bytes | memoryview) -> list[int]:
    return [json.loads(line)["seq"] for line in bytes(lines).splitlines()]


def test_what_is_put_is_taken_in_its_order() -> None:
    share = Share(SMALL)
    frames = Frames(share.fd)
    assert frames.take() is None
    for first in range(1, 5000, 7):  # many times around
        put(share, batch(first, 7, size=first % 50))
        frame = frames.take()
        assert frame is not None
        assert (frame.first, len(frame), frame.seq) == (first, 7, first + 7)
        assert seqs(frame.data) == list(range(first, first + 7))
        assert (frame.before, frame.end) == (HERE, Position(1, 2, 4))
    assert frames.take() is None
    assert frames.state().seq == first + 7


def test_lines_are_chosen_by_event_and_process() -> None:
    share = Share(SMALL)
    frames = Frames(share.fd)
    put(share, batch(1, 10))
    frame = frames.take()
    assert frame is not None
    lines, count = frame.select(1 << NUMBER["READ"])
    assert (seqs(lines), count) == ([1, 3, 5, 7, 9], 5)
    assert seqs(frame.select(ALL, Pids(frozenset({4, 9, 1 << 40, -1})))[0]) == [3, 4, 8, 9]
    assert frame.select(ALL, Pids(frozenset())) == (b"", 0)


def test_more_than_a_part_is_split_and_a_line_too_long_is_left_out() -> None:
    share = Share(SMALL)
    frames = Frames(share.fd)
    encoder = batch(1, 3, size=100)
    encoder.append(b"y" * SMALL + b"\n", NUMBER["READ"], 1, 1)
    for seq in range(5, 9):
        encoder.append(b'{"seq":%d,"pad":"%b"}\n' % (seq, b"x" * 9000), 1, 1, 1)
    put(share, encoder)
    found = []
    while frame := frames.take():
        found += list(range(frame.first, frame.seq))
        assert seqs(frame.data) == list(range(frame.first, frame.seq))
    assert found == [1, 2, 3, 5, 6, 7, 8]


def test_who_is_too_slow_is_told_and_goes_on_with_what_comes() -> None:
    share = Share(SMALL)
    frames = Frames(share.fd)
    for first in range(1, 1001, 10):
        put(share, batch(first, 10, size=100))
    with pytest.raises(OverflowError):
        frames.take()
    assert frames.skip().seq == 1001
    put(share, batch(1001, 1))
    frame = frames.take()
    assert frame is not None
    assert seqs(frame.data) == [1001]


def test_a_writer_that_overtakes_is_always_noticed() -> None:
    """One thread writes without pause; what the other takes is whole, and its numbers rise."""
    share = Share(SMALL)
    frames = Frames(share.fd)
    ending = threading.Event()

    def write() -> None:
        seq = 1
        while not ending.is_set():
            put(share, batch(seq, 5, size=seq % 300))
            seq += 5

    writing = threading.Thread(target=write)
    writing.start()
    last = taken = 0
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            frame = frames.take()
        except OverflowError:
            assert frames.skip().seq > last
        else:
            if frame:
                taken += 1
                assert frame.first > last
                assert seqs(frame.data) == list(range(frame.first, frame.seq))
                last = frame.seq - 1
    ending.set()
    writing.join()
    assert taken > 100


def test_the_memory_can_be_written_by_its_maker_alone() -> None:
    share = Share(SMALL)
    with pytest.raises(PermissionError):
        mmap.mmap(share.fd, SMALL)
    for change in (lambda: os.write(share.fd, b"x"), lambda: os.ftruncate(share.fd, 0)):
        with pytest.raises(PermissionError):
            change()
    again = os.open(f"/proc/self/fd/{share.fd}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.pwrite(again, b"x", 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(share.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert Frames(share.fd).take() is None


def test_random_bytes_are_no_frames() -> None:
    """What the core never writes: the front must know it, and neither fail nor hang."""
    chance = random.Random(1)  # noqa: S311 - no secret
    fd = os.memfd_create("hostile")
    os.ftruncate(fd, PAGE + SMALL)
    frames = Frames(fd)
    for _ in range(300):
        os.pwrite(fd, chance.randbytes(PAGE + SMALL), 0)
        if chance.randrange(2):  # positions that could be right
            head = chance.randrange(SMALL) & ~7
            os.pwrite(fd, head.to_bytes(8, "little") * 2, 0)
        for _ in range(5):
            try:
                frame = frames.take()
            except OverflowError:
                continue
            except BrokenShareError:
                break
            assert frame is None or len(frame) > 0
    with pytest.raises(BrokenShareError):
        os.pwrite(fd, (1).to_bytes(8, "little"), 16)  # a state that is never whole
        frames.state()
    os.close(fd)


def test_nothing_is_read_or_written_outside(tmp_path: Path) -> None:
    """Under AddressSanitizer, with frames that are right, damaged, and none at all."""
    source, program = tmp_path / "fuzz.c", tmp_path / "fuzz"
    names = "qmond/lines/encoder", "qmond/server/broadcast", "tests/fuzz/broadcast"
    parts = [ROOT / f"{name}.c" for name in names]
    source.write_text("\n".join([preamble(), *(part.read_text() for part in parts)]))
    if subprocess.run(["gcc", *SANITIZERS, "-w", "-o", program, source], check=False).returncode:
        assert not os.environ.get("CI")
        pytest.skip("no gcc with sanitizers")
    seed = time.time_ns()
    done = subprocess.run(
        [str(program), "20000", str(seed)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (seed, done.stderr[:3000])
    assert int(done.stdout) > 1000
    assert lib.SHARE_DATA == PAGE
