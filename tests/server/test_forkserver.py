"""The fork server: it is there while readers need it, and they end with it."""

import asyncio
from pathlib import Path

import pytest
from serving import Connect, play

from qmond.server.hub import Hub


def test_readers_share_a_fork_server_that_ends_when_it_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmond.server.forkserver._IDLE", 0.2)

    def children(pid: int) -> list[int]:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [*map(int, words)]

    async def scenario(hub: Hub, connect: Connect) -> None:
        for _ in range(2):
            peers = [await connect() for _ in range(3)]
            for peer in peers:
                await peer.get()
                assert await peer.ask('{"op":"tail","args":{"where":"pid == 1"}}') == {"ok": {}}
            process = hub.readers.fork_server._process
            assert process is not None
            assert len(children(process.pid)) == 3
            hub.check()
            await asyncio.sleep(0.3)
            hub.check()
            assert process.poll() is None, "it is needed"
            for peer in peers:
                peer.writer.close()
            async with asyncio.timeout(10):
                while hub.readers:
                    await asyncio.sleep(0.01)
            hub.check()
            await asyncio.sleep(0.3)
            hub.check()
            assert process.poll() is not None

    play(tmp_path / "s", scenario)


def test_readers_end_with_their_fork_server(tmp_path: Path) -> None:
    """A client whose reader was lost with it is told so, and another request has another one."""

    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        request = '{"op":"tail","args":{"where":"pid == 1"}}'
        assert await peer.ask(request) == {"ok": {}}
        process = hub.readers.fork_server._process
        assert process is not None
        reader = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().strip()
        process.kill()
        assert (await peer.get())["end"]["reason"] == "the reader failed (None)"
        async with asyncio.timeout(10):
            while Path(f"/proc/{reader}").exists():
                await asyncio.sleep(0.01)
        assert await peer.ask(request) == {"ok": {}}

    play(tmp_path / "s", scenario)
