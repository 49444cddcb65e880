"""Who may connect, and how many of each user."""

from pathlib import Path
from typing import Any

import pytest
from serving import Connect, play

from qmond.server.access import Rights
from qmond.server.hub import Hub


def test_who_may_not_ask_is_told_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        setattr(hub.audience, "rights", lambda _: Rights(ask=False, content=False, control=False))  # noqa: B010
        peer = await connect()
        assert (await peer.get())["error"]["class"] == "Forbidden"
        assert "is cut off" in caplog.text
        assert ": Forbidden: " in caplog.text
        assert await peer.reader.read() == b""
        assert len(hub.audience) == 0

    play(tmp_path / "s", scenario)


def test_has_room_for_so_many_clients(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        for _ in range(2):
            assert "qmond" in await (await connect()).get()
        late = await connect()
        assert (await late.get())["error"]["class"] == "TooManyClients"
        assert "is cut off" in caplog.text
        assert ": TooManyClients: " in caplog.text
        assert await late.reader.read() == b""
        assert len(hub.audience) == 2

    play(tmp_path / "s", scenario, max_clients=2)


def test_root_gets_in_whoever_else_is_there(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        real = hub.audience.rights
        uids = iter([*[1000] * 6, *[1001] * 6, *[1002] * 6, *[1003] * 6, 0, 0])

        def rights(peer: Any) -> Rights:
            object.__setattr__(peer, "uid", next(uids))
            real(peer)
            return Rights(ask=True, content=False, control=peer.uid == 0)

        setattr(hub.audience, "rights", rights)  # noqa: B010
        greeted = [("qmond" in await (await connect()).get()) for _ in range(26)]
        assert greeted[:6] == [True] * 4 + [False] * 2, "a quarter for one user"
        assert sum(greeted[:24]) == 14, "and places that are root's"
        assert greeted[24:] == [True, True]

    play(tmp_path / "s", scenario, max_clients=16)
