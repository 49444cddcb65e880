"""The lock of a socket; who may what is shown by tests/root/test_socket.py."""

from pathlib import Path

import pytest

from qmond.errors import InUseError
from qmond.server.access import Lock


def test_one_lock_at_a_time_and_no_file_left(tmp_path: Path) -> None:
    path = tmp_path / "s.lock"
    lock = Lock(path)
    with pytest.raises(InUseError, match="another qmond has this socket"):
        Lock(path)
    lock.close()
    assert not path.exists()
    Lock(path).close()
