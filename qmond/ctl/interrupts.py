"""What ends qmonctl from outside: Ctrl-C, and the end of the reader of its output.

Ctrl-C ends it at once, or by KeyboardInterrupt where a verb has to clean up. Where SIGINT is
ignored, as in a shell's background, it stays so.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import threading

__all__ = ["clean_up_on_ctrl_c", "end_on_ctrl_c", "end_with_reader"]


def end_on_ctrl_c() -> None:
    """Let SIGINT end the process; a shell reports that as status 130."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def clean_up_on_ctrl_c() -> None:
    """Let SIGINT raise KeyboardInterrupt. The caller has imported what it needs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_with_reader() -> None:
    """Let the process end, with status 0, when the reader of its output has ended.

    The next write would tell, but there may be nothing to write for long. It is for a verb that
    has nothing to clean up.
    """
    try:
        fd = sys.stdout.fileno()
        mode = os.fstat(fd).st_mode
    except OSError:  # it is missing, or a test's
        return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        threading.Thread(target=_await_reader, args=(fd,), daemon=True).start()


def _await_reader(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # POLLERR and POLLHUP come unasked: poll(2)
    poll.poll()
    os._exit(0)
