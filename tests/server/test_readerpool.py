"""How many readers run at once, by user."""

import asyncio

from qmond.server.forkserver import ForkServer
from qmond.server.readerpool import Readers
from qmond.server.settings import FrontSettings


def test_a_user_has_an_eighth_and_root_gets_its_readers_whoever_has_some() -> None:
    async def run() -> None:
        readers = Readers(ForkServer(), lambda: FrontSettings(max_clients=64))
        ended = asyncio.Event()

        async def reading() -> None:
            await ended.wait()

        def taken_by(uid: int) -> int:
            before = len(readers)
            while not readers.refusal(uid):
                readers.run(uid, reading())
            return len(readers) - before

        assert [taken_by(uid) for uid in range(1000, 1008)] == [4, 4, 4, 4, 4, 4, 0, 0]
        assert taken_by(0) == 32
        assert readers.refusal(1000) == "4 of user 1000 are there, and 56 in all"
        ended.set()
        await readers.close(10)
        assert len(readers) == 0
        assert not readers.refusal(1007)

    asyncio.run(run())
