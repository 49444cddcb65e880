"""The daemon's side of the lookers: ask with a deadline, and replace a looker that does not answer.

A guest can block a looker for ever, for example with memory on a FUSE file system whose server does
not answer. Such a looker is killed. If it does not end even then, it is left behind, and another
one is started. With `_LEFT_MOST` lookers left behind, no memory and no files are read any more. The
daemon then knows only what the kernel's records have.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from qmond.looker.child import COMMAND, Child, CrashError, close
from qmond.looker.requests import (
    Description,
    Outline,
    Seen,
    parse_found,
    parse_outcome,
    parse_outline,
    parse_words,
    text,
)
from qmond.looker.waiting import Waiting

__all__ = ["GoneError", "Lookers"]

_log = logging.getLogger(__name__)

_DEADLINE: Final = 2.0
"""Seconds for the answer to a question about one process."""
_SCAN_DEADLINE: Final = 12.0
_SCAN_MOST: Final = 1 << 18
_LEFT_MOST: Final = 4
_IDLE: Final = 15.0
"""Seconds without a question until a looker is ended: it takes 10 MB."""
_BACK_OFF: Final = (0.0, 0.1, 0.5, 2.0, 10.0)
"""Seconds until the next start, by the number of failures in a row."""


class GoneError(Exception):
    """The process has ended."""


@dataclass(slots=True, eq=False)
class _Question:
    """A question about a process, with its user if that is known."""

    pid: int
    uid: int | None
    request: dict[str, Any]
    talk: Callable[[Child, _Question], Awaitable[Any]]
    risky: bool
    answer: asyncio.Future[Any] = field(default_factory=asyncio.Future)
    outline: Outline | None = None

    def give(self, value: Any) -> None:  # noqa: ANN401 - each kind has its own
        if not self.answer.done():
            self.answer.set_result(value)


class Lookers:
    """The current looker, and those that were left behind.

    Every answer may be None: unknown. `root` is the host's procfs. `program` is the descriptor of
    the program for allocation probes, or -1 without such probes. `command` starts a looker.
    """

    def __init__(
        self, root: Path, program: int = -1, command: tuple[str, ...] | None = None
    ) -> None:
        self._root, self._program, self._command = root, program, command or COMMAND
        self._waiting: Waiting[_Question] = Waiting()
        self._asked = asyncio.Event()
        self._child: Child | None = None
        self._failures = 0
        self._next_start = 0.0
        self._left: dict[Child, _Question] = {}
        self._warned = False
        self._work: asyncio.Task[None] | None = None

    @property
    def left_behind(self) -> int:
        """The number of lookers that were killed, but have not ended."""
        return len(self._left)

    async def scan(self, prefixes: tuple[bytes, ...], excludes: tuple[bytes, ...]) -> list[Seen]:
        """Return the processes whose file name or comm matches, and their descendants."""
        request = {
            "what": "scan",
            "prefixes": [*map(text, prefixes)],
            "excludes": [*map(text, excludes)],
        }
        found: list[Seen] | None = await self._ask(0, 0, request, _scan, risky=False)
        return found or []

    async def describe(self, pid: int, uid: int | None = None) -> Description | None:
        """Return the description of a process, or None. Raises GoneError."""
        found = await self._ask(pid, uid, {"what": "describe", "pid": pid}, _describe, risky=True)
        if found is False:
            raise GoneError
        return found  # type: ignore[no-any-return] # as _describe gives it

    async def probe(
        self, pid: int, uid: int, start: int, name: str
    ) -> tuple[str, list[int]] | None:
        """Attach allocation probes to a process; returns one of OUTCOMES and the links, or None.

        `start` is in clock ticks. `name` is the name of the file that the process executes.
        """
        request = {"what": "probe", "pid": pid, "start": start, "name": name}
        if self._is_spared(pid, uid):
            return None
        return await self._ask(pid, uid, request, _probe, risky=True)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """End the looker; open questions are answered with None."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
            self._work = None
        while self._waiting:
            self._waiting.take().give(None)
        await self._end()
        loop = asyncio.get_running_loop()
        for child in self._left:
            loop.remove_reader(child.pidfd)
            child.leave()
        self._left.clear()

    async def _end(self) -> None:
        """End the current looker, which has no open question."""
        if self._child is not None:
            self._child.kill()
            if not await self._child.has_ended():
                self._child.leave()
            self._child = None

    # ---- one question at a time ----------------------------------------------------------------

    async def _ask(
        self,
        pid: int,
        uid: int | None,
        request: dict[str, Any],
        talk: Callable[[Child, _Question], Coroutine[Any, Any, Any]],
        *,
        risky: bool,
    ) -> Any:  # noqa: ANN401 - each kind has its own
        question = _Question(pid, uid, request, talk, risky)
        dropped = self._waiting.put(uid, question)
        if dropped is not None:
            dropped.give(None)
        if self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._answer_forever())
        self._asked.set()
        return await question.answer

    async def _answer_forever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_IDLE if self._child else None):
                    await self._asked.wait()
            except TimeoutError:
                await self._end()
                continue
            while self._waiting:
                question = self._waiting.take()
                try:
                    if not question.answer.done():
                        question.give(await self._answer(question))
                finally:
                    question.give(None)
            self._asked.clear()

    async def _answer(self, question: _Question) -> Any:  # noqa: ANN401 - each kind has its own
        spared = {"spared": self._spared_users(), "risky": not self._is_spared(question.pid, None)}
        try:
            if self._child is None:
                await self._start()
            child = self._child
            assert child is not None  # noqa: S101 - it was started
            child.send(question.request | (spared if question.risky else {}))
            found = await question.talk(child, question)
        except TimeoutError:
            await self._abandon(question)
        except (CrashError, OSError, ValueError) as error:
            _log.warning("a looker failed and is replaced: %s", error)
            await self._abandon(question)
            self._failures += 1
            pause = _BACK_OFF[min(self._failures, len(_BACK_OFF) - 1)]
            self._next_start = time.monotonic() + pause
        else:
            self._failures = 0
            return found
        return Description(question.outline, None) if question.outline else None

    async def _start(self) -> None:
        await asyncio.sleep(self._next_start - time.monotonic())
        self._child = Child(self._root, self._program, self._command)
        await self._child.greet()

    async def _abandon(self, question: _Question) -> None:
        """Kill the current looker, and leave it behind if it does not end."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        if await child.has_ended():
            return
        self._left[child] = question
        asyncio.get_running_loop().add_reader(child.pidfd, self._clean_up, child)
        if not self._warned:
            self._warned = True
            _log.warning(
                "process %d blocks the looker that reads it: its memory or its files are on a file "
                "system that does not answer",
                question.pid,
            )

    def _clean_up(self, child: Child) -> None:
        del self._left[child]
        asyncio.get_running_loop().remove_reader(child.pidfd)
        child.reap()
        self._warned = bool(self._left)

    def _spared_users(self) -> list[int]:
        """Return the users whose processes block lookers, and are not read now; never root."""
        return [uid for question in self._left.values() if (uid := _user(question))]

    def _is_spared(self, pid: int, uid: int | None) -> bool:
        return (
            len(self._left) >= _LEFT_MOST
            or pid in {question.pid for question in self._left.values()}
            or uid in self._spared_users()
        )


def _user(question: _Question) -> int | None:
    return question.outline.uid if question.outline else question.uid


async def _scan(child: Child, _: _Question) -> list[Seen]:
    found: list[Seen] = []
    async with asyncio.timeout(_SCAN_DEADLINE):
        while True:
            message, links = await child.receive(_SCAN_DEADLINE)
            close(links)
            rows = parse_found(message.get("found"))
            if not rows:
                return found
            found += rows
            if len(found) > _SCAN_MOST:
                raise ValueError("more processes than there can be")


async def _describe(child: Child, question: _Question) -> Description | bool | None:
    """Return a description, None if it is not accessible, or False if the process has ended."""
    message, links = await child.receive(_DEADLINE)
    close(links)
    if message in ({"gone": True}, {"gone": False}):
        return False if message["gone"] else None
    question.outline = parse_outline(message.get("outline"))
    message, links = await child.receive(_DEADLINE)
    close(links)
    return Description(question.outline, parse_words(message.get("words")))


async def _probe(child: Child, _: _Question) -> tuple[str, list[int]]:
    message, links = await child.receive(_DEADLINE)
    try:
        return parse_outcome(message, len(links)), links
    except ValueError:
        close(links)
        raise
