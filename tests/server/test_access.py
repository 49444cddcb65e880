"""Rights by group, and the lock of a socket; tests/root/test_permissions.py shows the whole."""

from pathlib import Path

import pytest

from qmond.errors import InUseError
from qmond.server import access
from qmond.server.access import Lock, Peer, Rights, rights_of


@pytest.mark.parametrize(
    ("groups", "ask", "content"),
    [
        ((60, 29), True, True),
        ((60, None), True, False),
        ((29, 29), True, True),
        ((99, 29), False, False),
        ((None, 29), False, False),
        ((None, None), False, False),
    ],
)
def test_who_sees_content_is_in_both_groups(
    groups: tuple[int | None, int | None], *, ask: bool, content: bool
) -> None:
    found = rights_of(Peer(1, 1000, 1000, frozenset({1000, 60, 29})), *groups)
    assert found == Rights(ask=ask, content=content, control=False)
    root = rights_of(Peer(1, 0, 0, frozenset()), *groups)
    assert root == Rights(ask=True, content=True, control=True)


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
