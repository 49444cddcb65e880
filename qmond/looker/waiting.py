"""Questions that wait for a looker: limited in number, and taken from all users in turn."""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

__all__ = ["Waiting"]

_MOST: Final = 4096

Question = TypeVar("Question")


class Waiting(Generic[Question]):
    """One queue per user. Each queue gives its oldest question in turn."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._count = 0
        self._queues: dict[int | None, deque[Question]] = {}

    def __len__(self) -> int:
        return self._count

    def put(self, uid: int | None, question: Question) -> Question | None:
        """Add a question about a process of a user, or None if the user is not known.

        If there are too many, removes and returns the newest one of the user with the most.
        """
        self._queues.setdefault(uid, deque()).append(question)
        self._count += 1
        if self._count <= self._most:
            return None
        most = max(self._queues, key=lambda user: len(self._queues[user]))
        return self._take(most, last=True)

    def take(self) -> Question:
        """Remove and return the next question. Raises IndexError if there is none."""
        if not self._queues:
            raise IndexError("no question waits")
        uid = next(iter(self._queues))
        question = self._take(uid, last=False)
        if uid in self._queues:  # to the end of the line
            self._queues[uid] = self._queues.pop(uid)
        return question

    def _take(self, uid: int | None, *, last: bool) -> Question:
        queue = self._queues[uid]
        question = queue.pop() if last else queue.popleft()
        self._count -= 1
        if not queue:
            del self._queues[uid]
        return question
