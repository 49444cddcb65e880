"""The lock of a socket; who may what is shown by tests/root/test_socket.py."""

from pathlib import Path

import pytest

from qmond.errors import InUseError
from qmond.server import access
from qmond.server.access import Lock, Peer


def test_one_lock_at_a_time_and_no_file_left(tmp_path: Path) -> None:
    path = tmp_path / "s.lock"
    lock = Lock(path)
    with pytest.raises(InUseError, match="another qmond has this socket"):
        Lock(path)
    lock.close()
    assert not path.exists()
    Lock(path).close()


@pytest.mark.parametrize(("seen", "first", "found"), [(7, 1, 7), (0, 1, None), (7, 0, None)])
def test_a_peers_id_is_the_hosts_or_none(
    seen: int, first: int, found: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "in_first_pid_namespace", lambda: first == 1)
    assert Peer(seen, 0, 0, frozenset()).hosts_pid == found
