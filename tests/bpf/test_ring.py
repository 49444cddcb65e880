"""The ring buffer, on a file that holds what the kernel would."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from struct import pack, pack_into

import pytest

from qmond.bpf.ring import RingBuffer

PAGE = mmap.PAGESIZE
SIZE = PAGE


class Kernel:
    """The producer's side: consumer page, producer page, data twice."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(2 * PAGE + 2 * SIZE))
        self.fd = os.open(path, os.O_RDWR)
        self._memory = mmap.mmap(self.fd, 0)
        self.position = 0

    def put(self, data: bytes, flags: int = 0) -> None:
        for index, byte in enumerate(pack("=II", len(data) | flags, 0) + data):
            at = (self.position + index) % SIZE
            self._memory[2 * PAGE + at] = self._memory[2 * PAGE + SIZE + at] = byte
        self.position += (len(data) + 8 + 7) & ~7
        pack_into("=Q", self._memory, PAGE, self.position)

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    producer = Kernel(tmp_path / "ring")
    yield producer
    producer.close()


def test_gives_what_was_put_in_and_no_more(kernel: Kernel) -> None:
    ring = RingBuffer(kernel.fd, SIZE)
    assert ring.drain(10) == []
    for data in (b"one", b"", b"three"):
        kernel.put(data)
    assert ring.used == 8 + 8 + 8 + 8 + 8
    assert ring.drain(2) == [b"one", b""]
    assert ring.drain(2) == [b"three"]
    assert ring.used == 0
    ring.close()


def test_stops_at_what_is_not_written_yet_and_skips_what_was_given_up(kernel: Kernel) -> None:
    ring = RingBuffer(kernel.fd, SIZE)
    kernel.put(b"given up", 1 << 30)
    kernel.put(b"whole")
    kernel.put(b"busy", 1 << 31)
    kernel.put(b"behind it")
    assert ring.drain(10) == [b"whole"]
    assert ring.drain(10) == []
    ring.close()


def test_goes_round_and_joins_what_the_end_cuts(kernel: Kernel) -> None:
    ring = RingBuffer(kernel.fd, SIZE)
    for number in range(1000):
        data = bytes([number % 256]) * (number % 97)
        kernel.put(data)
        assert ring.drain(10) == [data]
    assert kernel.position > 3 * SIZE
    ring.close()
