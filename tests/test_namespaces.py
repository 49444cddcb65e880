"""Which procfs is the host's, and this process' ID there."""

import os
from pathlib import Path

from qmond.namespaces import in_first_pid_namespace, is_hosts, own_id_in


def test_only_the_hosts_procfs_has_kernel_threads(tmp_path: Path) -> None:
    assert not is_hosts(tmp_path)
    (tmp_path / "2").mkdir()
    (tmp_path / "2/stat").write_bytes(b"2 (kthreadd) S 0 0 0 0 -1 2129984" + b" 0" * 20)
    assert is_hosts(tmp_path)
    (tmp_path / "2/stat").write_bytes(b"2 (kthreadd) S 0 0 0 0 -1 4194560" + b" 0" * 20)
    assert not is_hosts(tmp_path)


def test_the_own_id_is_that_of_the_hosts_procfs() -> None:
    expected = os.getpid() if in_first_pid_namespace() else None
    assert own_id_in(Path("/proc")) == expected


def test_another_procfs_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("77")
    assert own_id_in(tmp_path) is None
    (tmp_path / "2").mkdir()
    (tmp_path / "2/stat").write_bytes(b"2 (kthreadd) S 0 0 0 0 -1 2129984" + b" 0" * 20)
    assert own_id_in(tmp_path) == 77
