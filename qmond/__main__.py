"""`qmond`: the daemon in the foreground."""

from __future__ import annotations

import sys

# asyncio imports TLS, and hashlib OpenSSL: 5 MB of memory for nothing
for name in ("ssl", "_hashlib"):
    sys.modules.setdefault(name, None)  # type: ignore[arg-type]

import argparse  # noqa: E402
import asyncio  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Final  # noqa: E402

from qmond import __version__  # noqa: E402
from qmond.config.keys import DEFAULT_PATH, Config, load_config  # noqa: E402
from qmond.daemon.service import Service  # noqa: E402
from qmond.errors import ConfigError, QmondError  # noqa: E402
from qmond.systemd.messages import MessageId, complain, set_up  # noqa: E402

__all__ = ["main"]

_EX_FAILED: Final = 1
_EX_CONFIG: Final = 78  # sysexits.h
_PAUSE: Final = 10
"""Seconds before a failed daemon exits: a missing disk, a lock or low memory may pass by then."""


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon; returns the exit status."""
    options = _parser().parse_args(arguments)
    set_up(os.environ.get("QMOND_LOG_LEVEL", "INFO").upper())
    given = options.config or os.environ.get("QMOND_CONFIG")
    path = Path(given) if given else DEFAULT_PATH

    def reread() -> Config:
        return load_config(path, required=bool(given))

    try:
        config = reread()
    except ConfigError as error:
        complain(MessageId.BAD_CONFIG, str(error))
        return _EX_CONFIG
    if options.check:
        result = "no fault found" if path.exists() else "not there, so the defaults hold"
        sys.stdout.write(f"{path}: {result}\n")
        return 0
    try:
        asyncio.run(_serve(config, reread))
    except QmondError as error:
        complain(MessageId.FAILED, str(error), prefix="qmond: ")
        if "NOTIFY_SOCKET" in os.environ:
            time.sleep(_PAUSE)
        return _EX_FAILED
    return 0


async def _serve(config: Config, reread: Callable[[], Config]) -> None:
    await Service(config, reread).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qmond",
        description="Watch every qemu-user process of this host, and record what it does.",
        epilog="Exit status: 0 after an orderly stop, 78 for a faulty configuration, 1 otherwise.",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"the configuration file (default: $QMOND_CONFIG, or {DEFAULT_PATH} if it exists)",
    )
    parser.add_argument(
        "--check", action="store_true", help="report the faults of the configuration, and exit"
    )
    parser.add_argument("--version", action="version", version=f"qmond {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
