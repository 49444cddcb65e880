"""Which processes are taken under watch, on a procfs of files."""

import os
from pathlib import Path

import pytest

from qmond.adoption import adopt, matches
from qmond.config import Match

MATCH = Match()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (b"qemu-arm", True),
        (b"qemu-aarch64-st", True),
        (b"qemu-system-x86_64", False),
        (b"qemu-img", False),
        (b"bash", False),
        (b"my-qemu-arm", False),
    ],
)
def test_matches_by_prefix(name: bytes, wanted: bool) -> None:  # noqa: FBT001
    assert matches(name, MATCH) is wanted


class Tracked:
    """Stands for the kernel side's map."""

    def __init__(self, *already: int) -> None:
        self.pids = set(already)

    def track(self, pid: int) -> bool:
        new = pid not in self.pids
        self.pids.add(pid)
        return new

    def untrack(self, pid: int) -> None:
        self.pids.discard(pid)


def process(root: Path, pid: int, ppid: int, comm: str, exe: str, state: str = "S") -> None:
    folder = root / str(pid)
    folder.mkdir()
    numbers = " ".join(["0"] * 17)
    (folder / "stat").write_text(f"{pid} ({comm}) {state} {ppid} {numbers} 500 0 0\n")
    (folder / "cmdline").write_bytes(f"{exe}\0./prog\0".encode())
    (folder / "status").write_text("Uid:\t1000\t1000\t1000\t1000\n")
    (folder / "cgroup").write_text("0::/x\n")
    (folder / "auxv").write_bytes(b"")
    os.symlink(exe, folder / "exe")


def test_adopts_by_file_name_by_comm_and_by_descent(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, "prog", "/usr/bin/qemu-arm-static")  # through binfmt_misc
    process(tmp_path, 11, 1, "qemu-arm", "/opt/emulator")
    process(tmp_path, 12, 10, "sh", "/bin/dash")  # a guest's child that runs native code
    process(tmp_path, 13, 12, "sleep", "/bin/sleep")
    process(tmp_path, 20, 1, "bash", "/bin/bash")
    process(tmp_path, 21, 1, "qemu-system-arm", "/usr/bin/qemu-system-arm")
    process(tmp_path, 22, 1, "qemu-arm", "/usr/bin/qemu-arm", state="Z")
    tracked = Tracked(11)
    found = {process.pid: process for process in adopt(tracked, MATCH, tmp_path)}
    assert tracked.pids == {10, 11, 12, 13}
    assert set(found) == {10, 12, 13}, "11 was the kernel side's already"
    assert (found[10].arch, found[10].guest, found[10].origin) == ("arm", b"./prog", "procfs")
    assert (found[12].arch, found[12].ppid, found[12].uid) == (None, 10, 1000)
    assert found[10].start == 5_000_000_000


def test_one_that_ends_meanwhile_is_not_kept(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, "qemu-arm", "/usr/bin/qemu-arm")
    (tmp_path / "10" / "cmdline").unlink()
    tracked = Tracked()
    assert list(adopt(tracked, MATCH, tmp_path)) == []
    assert tracked.pids == set()
