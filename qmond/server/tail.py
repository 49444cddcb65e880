"""The lines of events that one client gets.

The front itself chooses lines by event and process. What takes more than a look at these is done by
a reader, a process of the client's own (reader.py). A client has a bounded buffer. When it is full,
whole lines are left out and counted. The client's own stream tells them as DROPPED as soon as there
is room again. A restart ends the tail; the client resumes it (qmond/cursor.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from qmond.errors import ProtocolError, RequestError
from qmond.server.choices import Choice, Choices
from qmond.server.feed import Feed
from qmond.server.protocol import (
    Request,
    Selection,
    answer,
    farewell,
    parse_selection,
    refusal,
)
from qmond.server.readerpool import Readers
from qmond.server.sendbuffer import SendBuffer
from qmond.server.settings import FrontSettings
from qmond.server.source import Source

__all__ = ["Tail"]

_FEED_MAX: Final = 1 << 20
"""Bytes that wait for a reader; what does not fit it reads from the log."""


class Tail:
    """The tail of one connection, from `follow` or `read` on until `stop`.

    It has a `choice` where the front chooses its lines, and a `feed` where a reader does. `sent`
    and `dropped` count lines, of all tails that the connection has had.
    """

    def __init__(
        self,
        buffer: SendBuffer,
        source: Source,
        readers: Readers,
        choices: Choices,
        settings: Callable[[], FrontSettings],
    ) -> None:
        self.choice: Choice | None = None
        self.feed: Feed | None = None
        self.sent = 0
        self.dropped = 0
        self._unreported = 0  # of the dropped lines
        self._request = Request("tail")
        self._is_last = False  # the connection ends with it
        self._buffer = buffer
        self._source = source
        self._readers = readers
        self._choices = choices
        self._settings = settings

    @property
    def is_on(self) -> bool:
        """Whether lines come."""
        return self.choice is not None or self.feed is not None

    # ---- begin and end -------------------------------------------------------------------------

    def select(self, request: Request) -> Selection:
        """Return which lines a request asks for. Raises RequestError where it cannot be served."""
        settings = self._settings()
        selection = parse_selection(request.args, settings.configured, time.time())
        if self.is_on:
            raise RequestError("Busy", "this connection tails already; stop ends that")
        timed = (selection.since, selection.until)
        if not settings.numbered and (selection.from_seq or timed != (None, None)):
            raise RequestError(
                "BadArgument", "from_seq, since, until: lines have no number and no time"
            )
        newest = self._source.about().get("newest", 0)
        if selection.from_seq is not None and selection.from_seq > newest + 1:
            raise RequestError("BadArgument", f"from_seq: the newest line is {newest}")
        return selection

    def follow(self, request: Request, selection: Selection) -> None:
        """Begin to send lines that come, chosen by the front; the source must have them come."""
        self._request, self._unreported = request, 0
        self.choice = self._choices[selection]
        self._buffer.write(answer(request, {}))

    def read(self, request: Request, selection: Selection, *, uid: int, content: bool) -> None:
        """Have a reader begin; it answers the request. Raises RequestError where there is no room.

        `content` says whether the client may see what guests read and wrote.
        """
        if reason := self._readers.refusal(uid):
            raise RequestError("TooManyReaders", reason)
        settings = self._settings()
        self._request, self._unreported = request, 0
        size = min(self._buffer.size, _FEED_MAX)
        self.feed = Feed(self, size, self._readers.fork_server, numbered=settings.numbered)
        asked = {
            "args": request.args,
            "configured": settings.configured,
            "now": time.time(),
            "content": content,
        }
        self._readers.run(uid, self._run(self.feed, asked, selection))

    async def _run(self, feed: Feed, asked: dict[str, Any], selection: Selection) -> None:
        """Run a reader; the log ends for it where `listen` begins, or a little later."""
        source = self._source
        try:
            start = await source.follow()
            feed.listen()
            if selection.tree is not None:
                start = await source.tree(selection.tree)
            await feed.run({**asked, "log": source.log.path}, start)
        except (OSError, ProtocolError) as error:
            if self.feed is feed:
                self.stop()
                self._conclude(refusal(self._request.id, _not_started(error)))

    def stop(self) -> None:
        """Send no more lines; those that were dropped are reported."""
        self.choice = None
        if self.feed:
            self.feed.close()
            self.feed = None
        if not self._buffer.is_closing:
            self._report_dropped()
        self._unreported = 0

    def finish(self) -> None:
        """Close the connection once all lines are sent that there are."""
        self._report_dropped()
        self.end_with_it()
        if self.feed:
            self.feed.finish()
        else:
            self._buffer.close()

    def end_with_it(self) -> None:
        """Close the connection when the tail ends: the client asks for nothing more."""
        self._is_last = True
        if not self.is_on:
            self._buffer.close()

    def _conclude(self, message: bytes) -> None:
        """Send a tail's last message."""
        if not self._buffer.is_closing:
            self._buffer.write(message)
            if self._is_last:
                self._buffer.close()

    # ---- lines that the front chooses ----------------------------------------------------------

    def push(self, lines: bytes, count: int) -> None:
        """Send lines that the client wants, as far as there is room for them."""
        if self._buffer.is_closing or not count:
            return
        room = self._buffer.room
        if not self._unreported and len(lines) <= room:
            self._buffer.write(lines)
            self.sent += count
            return
        whole = 0 if self._unreported else lines.rfind(b"\n", 0, max(0, room)) + 1
        taken = lines.count(b"\n", 0, whole)
        if whole:
            self._buffer.write(lines[:whole])
            self.sent += taken
        self.lost(count - taken)

    def miss(self, first: int, last: int) -> None:
        """Take note of lines that did not come to the front, by their numbers."""
        if self.feed:
            self.feed.skip(first, last)
        elif self.choice is not None:
            self.lost(last - first + 1)

    def lost(self, count: int) -> None:
        """Count lines that the client does not get, and report them as soon as there is room."""
        self._unreported += count
        self.dropped += count
        if not self._buffer.is_full and not self._buffer.is_closing:
            self._report_dropped()

    def resume(self) -> None:
        """Go on: the buffer has room again."""
        self._report_dropped()
        if self.feed:
            self.feed.resume()

    def _report_dropped(self) -> None:
        count, self._unreported = self._unreported, 0
        if count:
            self._buffer.write(self._source.dropped(count))

    # ---- a reader's feed calls these -----------------------------------------------------------

    def answered(self, found: dict[str, Any]) -> None:
        """Send the reader's answer to the request."""
        if "ok" in found:
            self._buffer.write(answer(self._request, found["ok"]))
        else:
            error = RequestError.parse(found["error"])
            self.stop()
            self._conclude(refusal(self._request.id, error))

    def receive(self, lines: bytes) -> bool:
        """Send lines that the reader chose; says whether there is room for more."""
        self._buffer.write(lines)
        self.sent += lines.count(b"\n")
        return not self._buffer.is_full

    def ended(self, reason: str) -> None:
        """Tell the client that no more lines follow."""
        self.stop()
        self._conclude(farewell(self._request.id, reason))


def _not_started(error: OSError | ProtocolError) -> RequestError:
    """Return why there is no reader; what the core refuses has its own reason."""
    if isinstance(error, RequestError):
        return error
    why = error.strerror if isinstance(error, OSError) else error
    return RequestError("Failed", f"no reader could be started: {why}")
