"""The daemon's side of the lookers: it asks, waits for no one, and replaces what does not answer.

A guest can hold a looker for ever: with a page of its memory on a file system of its own, whose
server does not answer. The looker is killed then; where even that does not end it, it is left
behind until it ends. There are at most `_LEFT_MOST` of those: then nobody's memory and files are
looked at any more, and what the kernel's records bring must do.
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
"""Seconds for an answer to a question about one process."""
_SCAN_DEADLINE: Final = 12.0
_SCAN_MOST: Final = 1 << 18
_LEFT_MOST: Final = 4
_IDLE: Final = 15.0
"""Seconds after which a looker ends that nobody asks: it has 10 MB."""
_BACK_OFF: Final = (0.0, 0.1, 0.5, 2.0, 10.0)
"""Seconds until a looker is started again that failed so often in a row."""


class GoneError(Exception):
    """There is no such process any more."""


@dataclass(slots=True, eq=False)
class _Question:
    """What is asked about which process, and of which user where that is known."""

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
    """One looker at a time, and those that were left behind.

    Every answer may be None: unknown. `root` is the host's procfs; `program` the descriptor of the
    program for allocation probes, or -1 where none are put in; `command` starts a looker.
    """

    def __init__(
        self, root: Path, program: int = -1, command: tuple[str, ...] | None = None
    ) -> None:
        self._root, self._program, self._command = root, program, command or COMMAND
        self._waiting: Waiting[_Question] = Waiting()
        self._asked = asyncio.Event()
        self._child: Child | None = None
        self._failures = 0
        self._not_before = 0.0
        self._left: dict[Child, _Question] = {}
        self._told = False
        self._work: asyncio.Task[None] | None = None

    @property
    def left_behind(self) -> int:
        """How many lookers were killed and have not ended."""
        return len(self._left)

    async def scan(self, prefixes: tuple[bytes, ...], excludes: tuple[bytes, ...]) -> list[Seen]:
        """Return the processes that match by file name or comm, and their descendants."""
        request = {
            "what": "scan",
            "prefixes": [*map(text, prefixes)],
            "excludes": [*map(text, excludes)],
        }
        found: list[Seen] | None = await self._ask(0, 0, request, _scan, risky=False)
        return found or []

    async def describe(self, pid: int, uid: int | None = None) -> Description | None:
        """Return what a process is. Raises GoneError."""
        found = await self._ask(pid, uid, {"what": "describe", "pid": pid}, _describe, risky=True)
        if found is False:
            raise GoneError
        return found  # type: ignore[no-any-return] # as _describe gives it

    async def probe(
        self, pid: int, uid: int, start: int, name: str
    ) -> tuple[str, list[int]] | None:
        """Put allocation probes into a process; returns a word of OUTCOMES and the links.

        `start` is in clock ticks, `name` that of the file it executes.
        """
        request = {"what": "probe", "pid": pid, "start": start, "name": name}
        if self._is_spared(pid, uid):
            return None
        return await self._ask(pid, uid, request, _probe, risky=True)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """End the looker; who still waits is answered: unknown."""
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
        """End the looker that answers nothing now."""
        if self._child is not None:
            self._child.kill()
            if not await self._child.has_ended():
                self._child.leave()
            self._child = None

    # ---- one question after the other ----------------------------------------------------------

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
            _log.warning("a looker is replaced: %s", error)
            await self._abandon(question)
            self._failures += 1
            pause = _BACK_OFF[min(self._failures, len(_BACK_OFF) - 1)]
            self._not_before = time.monotonic() + pause
        else:
            self._failures = 0
            return found
        return Description(question.outline, None) if question.outline else None

    async def _start(self) -> None:
        await asyncio.sleep(self._not_before - time.monotonic())
        self._child = Child(self._root, self._program, self._command)
        await self._child.greet()

    async def _abandon(self, question: _Question) -> None:
        """Kill the looker, and leave it behind if it does not end."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        if await child.has_ended():
            return
        self._left[child] = question
        asyncio.get_running_loop().add_reader(child.pidfd, self._bury, child)
        if not self._told:
            self._told = True
            _log.warning(
                "process %d keeps whoever looks at it from ending: its memory or its files are on "
                "a file system that does not answer",
                question.pid,
            )

    def _bury(self, child: Child) -> None:
        del self._left[child]
        asyncio.get_running_loop().remove_reader(child.pidfd)
        child.bury()
        self._told = bool(self._left)

    def _spared_users(self) -> list[int]:
        """Return for whose processes no risk is taken now: root's are not one another's fault."""
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
    """Return a description, None where it may not be had, False where there is no such process."""
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
