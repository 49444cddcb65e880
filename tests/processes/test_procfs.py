"""The parsers on what /proc holds, and the readers on this very process."""

import os
import subprocess
import sys
from struct import pack

import pytest

from qmond.processes import procfs

STAT = b"42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3\n"


def test_a_comm_may_hold_spaces_and_parentheses() -> None:
    assert procfs.parse_stat(STAT) == procfs.Stat(comm=b"a) b (c", state="S", ppid=7, start=98765)


def test_other_files() -> None:
    assert procfs.parse_uid(b"Name:\tx\nUid:\t1000\t0\t0\t0\n") == 1000
    assert procfs.parse_cgroup(b"1:cpu:/x\n0::/user.slice\n") == b"/user.slice"
    assert procfs.parse_cgroup(b"1:cpu:/x\n") is None
    assert procfs.parse_auxv(pack("=QQQQ", 31, 4096, 0, 0) + b"torn") == {31: 4096, 0: 0}
    with pytest.raises(ValueError, match="no Uid line"):
        procfs.parse_uid(b"")


def test_readerpool_find_this_process() -> None:
    pid = os.getpid()
    assert pid in procfs.pids()
    assert procfs.read_stat(pid).ppid == os.getppid()
    assert procfs.read_uid(pid) == os.getuid()
    assert procfs.read_exe(pid) == os.path.realpath(sys.executable).encode()
    assert procfs.read_cmdline(pid)[0]


def test_the_path_that_was_asked_for_is_found() -> None:
    with subprocess.Popen(["/usr/bin/../bin/cat"], stdin=subprocess.PIPE) as process:
        found = None
        while found is None:  # for a moment the new program has no auxiliary vector yet
            found = procfs.read_execfn(process.pid)
        assert found == b"/usr/bin/../bin/cat"


def test_process_ids_of_every_namespace() -> None:
    assert procfs.parse_nspid(b"Name:\tx\nNSpid:\t4711\t12\n") == [4711, 12]
    with pytest.raises(ValueError, match="no NSpid"):
        procfs.parse_nspid(b"Name:\tx\n")
    assert procfs.read_own_pid(os.getpid()) == os.getpid()
