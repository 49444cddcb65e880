"""Kernel sides in stock, for the daemons of the tests.

A daemon needs nearly all of its start to load its kernel side. Here the next one is loaded while a
test still runs, and gives way to it. It is loaded as a daemon would do it, and is idle until a
daemon configures it.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

from qmond.bpf.load import Options, load
from qmond.config.keys import Config

OPTIONS = Options(ring=Config().ring.size)
ORDINARY = {"size": "16M"}
"""The section `ring` of the configuration that says the same."""


class Stock:
    """One kernel side, and another as soon as it is taken."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=_give_way)
        self._next = self._thread.submit(load, OPTIONS)

    def take(self) -> dict[str, int]:
        """Return the descriptors of a kernel side, which are the caller's. Raises LoadError."""
        taken: Future[dict[str, int]] = self._next
        self._next = self._thread.submit(load, OPTIONS)
        return taken.result()

    def wait(self) -> None:
        """Wait until nothing is being loaded."""
        self._next.result()

    def close(self) -> None:
        """Detach what is left."""
        self._thread.shutdown()
        for fd in self._next.result().values():
            os.close(fd)


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, 10)  # on Linux this is the thread's, and its children's


def handed(descriptors: dict[str, int]) -> str:
    """Return statements that have a daemon take a kernel side instead of loading the same."""
    return f"""
from qmond.bpf.load import Options
from qmond.bpf.probes import Probes
def load(cls, options, load=Probes.load.__func__):
    return cls({descriptors}, options) if options == {OPTIONS} else load(cls, options)
Probes.load = classmethod(load)
"""
