"""What the tests of a real daemon get: guests, interpreters, a daemon of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import COMPILERS, Qmond, builder, end_qmond, registrar, start_qmond
from stock import Stock

_NEED_ROOT = tuple(Path(__file__).with_name(name) for name in ("root", "hostile"))
"""Folders whose tests run a daemon."""
_ON_HOST = (*_NEED_ROOT, *(Path(__file__).with_name(name) for name in ("systemd", "looker")))
"""Folders whose tests watch the whole host, or run what is watched: one would see the other's."""

StartQmond = Callable[..., Qmond]
Build = Callable[[str, str], Path]


def _missing() -> str:
    """Return what a root test needs and this machine does not have, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "needs a kernel with BTF"
    tools = [
        "qemu-aarch64",
        "qemu-aarch64-static",
        "strace",
        "bpftrace",
        "nc",
        "jq",
        *COMPILERS.values(),
    ]
    absent = [tool for tool in tools if shutil.which(tool) is None]
    return f"needs {', '.join(absent)}" if absent else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip with a reason; where CI runs, a root test that cannot run is a failure."""
    reason = _missing()
    for item in items:
        is_apart = item.get_closest_marker("vm") is not None
        if not is_apart and any(item.path.is_relative_to(folder) for folder in _ON_HOST):
            item.add_marker("host")
        if not any(item.path.is_relative_to(folder) for folder in _NEED_ROOT):
            continue
        item.add_marker("root")
        if reason and not os.environ.get("CI"):
            item.add_marker(pytest.mark.skip(reason=f"{reason}: run `sudo script/test`"))
        elif reason:
            pytest.exit(f"the root tests cannot run: {reason}", returncode=1)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return what compiles a guest for an architecture, once."""
    return builder(tmp_path_factory.mktemp("guests"))


@pytest.fixture
def binfmt() -> Iterator[Callable[[str], None]]:
    """Return what registers an interpreter with binfmt_misc; all is undone afterwards."""
    with registrar() as register:
        yield register


@pytest.fixture(scope="session")
def stock() -> Iterator[Stock]:
    """Give kernel sides that are loaded already."""
    with contextlib.closing(Stock()) as found:
        yield found


@pytest.fixture
def qmond(tmp_path: Path, stock: Stock) -> Iterator[StartQmond]:
    """Return what starts a daemon and waits until it is ready; it is stopped at the end.

    `under` is a command to start it by, `patch` are statements of Python that run before it.
    """
    with contextlib.ExitStack() as stack:

        def start(
            *,
            under: Sequence[str] = (),
            patch: str = "",
            stored: dict[str, int] | None = None,
            **config: Any,
        ) -> Qmond:
            daemon = start_qmond(
                tmp_path, config, under=under, patch=patch, stored=stored, stock=stock
            )
            stack.callback(end_qmond, daemon)
            return daemon

        yield start
