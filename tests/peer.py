"""A peer of the client that is made up: it says what it is told to say."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HELLO = b'{"qmond":{"version":"9","protocol":1,"boot_id":"b","capabilities":[]}}\n'


def hello(newest: int, boot_id: str = "b") -> bytes:
    """Return the greeting of a daemon that has lines up to a number."""
    about = {"protocol": 1, "boot_id": boot_id, "oldest": 1, "newest": newest}
    return json.dumps({"qmond": about}).encode() + b"\n"


@contextmanager
def peer(path: Path, *answers: bytes) -> Iterator[None]:
    """Serve one connection: greet with the first, and give one of the others for each request."""
    with peers(path, answers):
        yield


@contextmanager
def peers(path: Path, *connections: Sequence[bytes]) -> Iterator[list[dict[str, Any]]]:
    """Serve one connection after another like that; gives the requests, as they come.

    The last one finds the socket gone when it has hung up.
    """
    asked: list[dict[str, Any]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(10)

    def serve() -> None:
        with listener:
            for number, answers in enumerate(connections, 1):
                connection, _ = listener.accept()
                if number == len(connections):
                    listener.close()
                    path.unlink()
                connection.settimeout(10)
                with contextlib.suppress(ConnectionError), connection:
                    _answer(connection, answers, asked)

    thread = threading.Thread(target=serve)
    thread.start()
    yield asked
    thread.join(20)
    assert not thread.is_alive(), "a client did not hang up"


def _answer(
    connection: socket.socket, answers: Sequence[bytes], asked: list[dict[str, Any]]
) -> None:
    with connection.makefile("rb") as requests:
        connection.sendall(answers[0])
        for answer in answers[1:]:
            request = requests.readline()
            if request:
                asked.append(json.loads(request))
            if answer:
                connection.sendall(answer)
