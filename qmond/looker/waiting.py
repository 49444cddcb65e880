"""Questions that wait for a looker: bounded in number, and fair to the users they are about."""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

__all__ = ["Waiting"]

_MOST: Final = 4096

Question = TypeVar("Question")


class Waiting(Generic[Question]):
    """One queue a user; each in turn gives its oldest question."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._count = 0
        self._queues: dict[int | None, deque[Question]] = {}

    def __len__(self) -> int:
        return self._count

    def put(self, uid: int | None, question: Question) -> Question | None:
        """Add a question about a user's process (None: nobody knows whose).

        Returns the question that has no room any more: the last of who has most.
        """
        self._queues.setdefault(uid, deque()).append(question)
        self._count += 1
        if self._count <= self._most:
            return None
        most = max(self._queues, key=lambda user: len(self._queues[user]))
        return self._take(most, last=True)

    def take(self) -> Question:
        """Return the next question. Raises IndexError where there is none."""
        if not self._queues:
            raise IndexError("nobody waits")
        uid = next(iter(self._queues))
        question = self._take(uid, last=False)
        if uid in self._queues:  # its turn comes again behind the others'
            self._queues[uid] = self._queues.pop(uid)
        return question

    def _take(self, uid: int | None, *, last: bool) -> Question:
        queue = self._queues[uid]
        question = queue.pop() if last else queue.popleft()
        self._count -= 1
        if not queue:
            del self._queues[uid]
        return question
