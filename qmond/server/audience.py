"""Who is connected to a socket: who may come in, and how many of each user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from qmond.errors import RequestError
from qmond.server.access import Peer, Rights, rights_of
from qmond.server.settings import FrontSettings
from qmond.server.tail import Tail

__all__ = ["Audience"]


class Connected(Protocol):
    """One connection, as far as it matters here."""

    peer: Peer
    tail: Tail


Member = TypeVar("Member", bound=Connected)


class Audience(Generic[Member]):
    """The connections of one socket.

    Root may have `max_clients`, whoever else is there. All other users together may have seven
    eighths of that, and each of them a quarter.
    """

    def __init__(self, settings: Callable[[], FrontSettings]) -> None:
        self._settings = settings
        self._members: set[Member] = set()
        self._dropped = 0  # lines, of members that have left

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members))  # members may leave meanwhile

    @property
    def dropped(self) -> int:
        """How many lines members did not get, those that have left too."""
        return self._dropped + sum(member.tail.dropped for member in self._members)

    def rights(self, peer: Peer) -> Rights:
        """Return what a peer may."""
        return rights_of(peer, *self._settings().groups)

    def enter(self, member: Member) -> Rights:
        """Let one in, and return what it may. Raises RequestError where it may not come in."""
        rights = self.rights(member.peer)
        if not rights.ask:
            group = self._settings().group
            raise RequestError("Forbidden", f"neither root nor a member of the group {group}")
        if reason := self._refusal(member.peer.uid):
            raise RequestError("TooManyClients", reason)
        self._members.add(member)
        return rights

    def leave(self, member: Member) -> None:
        """Forget one, which may not have come in."""
        if member in self._members:
            self._members.remove(member)
            self._dropped += member.tail.dropped

    def _refusal(self, uid: int) -> str:
        """Return why there is no place for one more of a user; nothing where there is one."""
        most = self._settings().max_clients
        users = Counter(member.peer.uid for member in self._members)
        if uid == 0 and users[0] >= most:
            return f"{most} of root are connected already"
        if uid != 0:
            others, kept = users.total() - users[0], max(1, most // 8)
            if others >= max(1, most - kept):
                return f"{others} are connected already"
            if users[uid] >= max(1, most // 4):
                return f"{users[uid]} of user {uid} are connected already"
        return ""
