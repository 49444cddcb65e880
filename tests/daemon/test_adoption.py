"""Which processes are taken under watch, and what is told of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from qmond.config.keys import Match
from qmond.daemon.adoption import Adoption, described
from qmond.looker.asking import GoneError
from qmond.looker.requests import Description, Outline, Seen, Words
from qmond.processes.table import Process, ProcessTable

MATCH = Match()
OUTLINE = Outline(
    comm=b"prog",
    ppid=1,
    start=500,
    uid=1000,
    exe=b"/usr/bin/qemu-arm-static (deleted)",
    cgroup=b"/x\xff",
    parents=((1, b"init"),),
    rings=(7,),
)
FOUND = Description(OUTLINE, Words(b"/usr/bin/qemu-arm-static\0./prog\0", b"./prog"))


def test_a_description_tells_the_guest() -> None:
    process = described(10, FOUND)
    assert (process.bin, process.arch, process.guest) == ("qemu-arm-static", "arm", b"./prog")
    assert (process.launch, process.origin, process.start) == ("binfmt", "procfs", 5_000_000_000)
    assert (process.uid, process.cgroup, process.parents) == (1000, "/x\ufffd", ((1, "init"),))


def test_without_its_words_the_guest_is_not_known() -> None:
    process = described(10, Description(OUTLINE, None))
    assert (process.arch, process.guest, process.argv) == ("arm", None, b"")
    shell = described(10, Description(replace(OUTLINE, exe=b"/bin/sh"), FOUND.words))
    assert (shell.arch, shell.launch) == (None, "nested")


class Host:
    """Stands for the kernel side and the looker of a host: what is seen in each scan."""

    def __init__(self, *scans: list[int], under_watch: tuple[int, ...] = ()) -> None:
        self.scans = [*scans]
        self.under_watch = {*under_watch}
        self.gone: set[int] = set()
        self.unknown: set[int] = set()
        self.asked: list[int] = []

    def track(self, pid: int) -> bool:
        new = pid not in self.under_watch
        self.under_watch.add(pid)
        return new

    def untrack(self, pid: int) -> None:
        self.under_watch.discard(pid)

    def is_tracked(self, pid: int) -> bool:
        return pid in self.under_watch

    async def scan(self, prefixes: tuple[bytes, ...], excludes: tuple[bytes, ...]) -> list[Seen]:
        assert prefixes == (b"",) or {name.decode() for name in excludes} == {*MATCH.exclude}
        pids = self.scans.pop(0) if len(self.scans) > 1 else self.scans[0]
        return [Seen(pid, 1, 500, 1000) for pid in pids]

    async def describe(self, pid: int, uid: int | None = None) -> Description | None:
        assert uid in {1000, None}
        self.asked.append(pid)
        if pid in self.gone:
            raise GoneError
        return None if pid in self.unknown else FOUND


def adopted(host: Host, *, resumed: bool = False) -> tuple[list[Process], ProcessTable]:
    """Return who is told as adopted, and the table."""
    told: list[Process] = []

    async def run() -> ProcessTable:
        adoption = Adoption(host, host, lambda process, _: told.append(process), lambda: None)
        processes = ProcessTable(adoption.ask, lambda _: "static", lambda _pid: None)
        adoption.begin(MATCH, processes, resumed=resumed)
        while not adoption.is_done:
            await asyncio.sleep(0)
        adoption.end()
        return processes

    return told, asyncio.run(run())


def test_adopts_until_a_look_finds_nobody_new() -> None:
    host = Host([10, 11], [10, 11, 12], [10, 11, 12], [13], under_watch=(11,))
    told, processes = adopted(host)
    assert [process.pid for process in told] == [10, 12], "11 was the kernel side's already"
    assert processes[12].guest == b"./prog"
    assert host.scans == [[13]]


def test_one_who_forks_without_end_does_not_keep_it_from_ending() -> None:
    host = Host(*([pid] for pid in range(10, 100)))
    told, _ = adopted(host)
    assert len(told) == 8


def test_one_that_ends_meanwhile_is_not_kept() -> None:
    host = Host([10, 11])
    host.gone.add(10)
    told, processes = adopted(host)
    assert [process.pid for process in told] == [11]
    assert (host.under_watch, len(processes)) == ({11}, 1)


def test_one_that_nothing_is_known_of_is_watched_all_the_same() -> None:
    host = Host([10])
    host.unknown.add(10)
    (told,), _ = adopted(host)
    assert (told.pid, told.bin, told.uid, told.start) == (10, "", 1000, 5_000_000_000)
    assert host.under_watch == {10}


def test_those_under_watch_since_before_are_entered_and_not_told() -> None:
    host = Host([10, 11, 12], [10], under_watch=(10, 11))
    told, processes = adopted(host, resumed=True)
    assert told == []
    assert sorted(process.pid for process in processes) == [10, 11]


@pytest.mark.parametrize("what", ["exec", "end"])
def test_records_that_come_first_stand(what: str) -> None:
    host = Host([10])
    told: list[Process] = []

    async def run() -> None:
        adoption = Adoption(host, host, lambda process, _: told.append(process), lambda: None)
        processes = ProcessTable(adoption.ask, lambda _: "static", lambda _pid: None)
        describe = host.describe

        async def meanwhile(pid: int, uid: int | None = None) -> Description | None:
            if what == "exec":
                processes.adopt(Process(10, guest=b"/new"))
            else:
                processes.forget(10)
            return await describe(pid, uid)

        host.describe = meanwhile  # type: ignore[method-assign]
        adoption.begin(MATCH, processes)
        while not adoption.is_done:
            await asyncio.sleep(0)

    asyncio.run(run())
    assert [process.guest for process in told] == ([b"/new"] if what == "exec" else [])
