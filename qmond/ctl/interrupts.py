"""Ctrl-C: it ends qmonctl at once, or by KeyboardInterrupt where a verb has to clean up.

Where SIGINT is ignored, as in a shell's background, it stays so.
"""

from __future__ import annotations

import signal

__all__ = ["clean_up_on_ctrl_c", "end_on_ctrl_c"]


def end_on_ctrl_c() -> None:
    """Let SIGINT end the process; a shell reports that as status 130."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def clean_up_on_ctrl_c() -> None:
    """Let SIGINT raise KeyboardInterrupt. The caller has imported what it needs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
