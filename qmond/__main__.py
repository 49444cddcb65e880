"""`qmond`: the daemon in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Final

from qmond import __version__
from qmond.config import DEFAULT_PATH, load_config
from qmond.daemon import run
from qmond.errors import ConfigError, QmondError

__all__ = ["main"]

_EX_FAILED: Final = 1
_EX_CONFIG: Final = 78  # sysexits.h


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=os.environ.get("QMOND_LOG_LEVEL", "INFO").upper(),
        format="qmond: %(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    given = options.config or os.environ.get("QMOND_CONFIG")
    path = Path(given) if given else DEFAULT_PATH
    try:
        config = load_config(path, required=bool(given))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return _EX_CONFIG
    if options.check:
        sys.stdout.write(f"{path}: no fault found\n")
        return 0
    try:
        asyncio.run(run(config))
    except QmondError as error:
        sys.stderr.write(f"qmond: {error}\n")
        return _EX_FAILED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qmond",
        description="Watch every qemu-user process of this host: log what it does, and stream it.",
        epilog="Exit status: 0 after an orderly stop, 1 on a failure, 78 on a wrong configuration.",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"the configuration (default: $QMOND_CONFIG, or {DEFAULT_PATH} where it is there)",
    )
    parser.add_argument("--check", action="store_true", help="check the configuration and end")
    parser.add_argument("--version", action="version", version=f"qmond {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
