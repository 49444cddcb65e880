"""The feed of a reader: what there is no room for is read from the log, or counted."""

from pathlib import Path

from serving import LIMIT, Connect, line, numbered, play, seqs

from qmond.server.hub import Hub


def test_a_readers_lines_go_on_after_any_number_of_bytes(tmp_path: Path) -> None:
    """Neither side may take half of the buffer, to the byte, for the other's turn."""

    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        assert await peer.ask('{"op":"tail","args":{"where":"pid == 1"}}') == {"ok": {}}
        (connection,) = hub.audience
        assert connection.tail.feed
        sent = 0
        while (room := LIMIT // 2 - connection.describe()["buffered"]) > 0:
            connection.tail.feed.data_received(b"x" * (min(room, LIMIT // 8) - 1) + b"\n")
            sent += min(room, LIMIT // 8)
        assert connection.describe()["buffered"] == LIMIT // 2
        await peer.reader.readexactly(sent)
        hub.broadcast(line("READ", 1))
        assert (await peer.get())["event"] == "READ"

    play(tmp_path / "s", scenario, client_buffer=LIMIT)


def test_what_a_reader_has_no_room_for_it_reads_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"

    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        assert await peer.ask('{"op":"tail","args":{"where":"fd >= 0"}}') == {"ok": {}}
        for first in range(1, 20001, 1000):  # far more than the buffers hold, and nobody reads
            batch = numbered(first, first + 999)
            with log.open("ab") as file:
                file.write(batch.data)
            hub.broadcast(batch)
        assert await seqs(peer, 20000) == list(range(1, 20001))

    play(tmp_path / "s", scenario, client_buffer=65536)


def test_lines_without_numbers_that_a_reader_does_not_get_are_counted(tmp_path: Path) -> None:
    async def scenario(hub: Hub, connect: Connect) -> None:
        peer = await connect()
        await peer.get()
        assert await peer.ask('{"op":"tail","args":{"where":"fd >= 0"}}') == {"ok": {}}
        for first in range(1, 40001, 1000):
            hub.broadcast(numbered(first, first + 999))
        got = dropped = 0
        while got + dropped < 40000:
            row = await peer.get()
            assert row["event"] != "GAP"
            got, dropped = (
                (got, dropped + row["count"]) if row["event"] == "DROPPED" else (got + 1, dropped)
            )
        assert dropped > 0

    play(tmp_path / "s", scenario, client_buffer=65536, numbered=False)
