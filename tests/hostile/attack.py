"""Programs of attackers: compiled, given a name that is watched, and run without any privilege."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig=KILL"]


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """Give a folder that everybody may look into, with one inside that everybody may write to."""
    with tempfile.TemporaryDirectory(prefix="qmond-hostile-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "own").mkdir()
        (folder / "own").chmod(0o777)
        yield folder


def compiled(name: str, folder: Path, *, called: str = "") -> Path:
    """Compile a program of PROGRAMS for this host; returns it under a name that is watched."""
    program = folder / (called or f"qemu-{name}")
    flags = ["-static", "-pthread", "-O1", "-Wall", "-Wextra"]
    subprocess.run(["gcc", *flags, "-o", program, PROGRAMS / f"{name}.c"], check=True)
    program.chmod(0o755)
    return program


@contextlib.contextmanager
def attacking(*command: str | Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program as nobody, in a folder; it is ended at the end."""
    with subprocess.Popen(
        [*NOBODY, *map(str, command)],
        cwd=folder / "own",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": "/nonexistent"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def attacked(*command: str | Path, folder: Path) -> str:
    """Run a program as nobody to its end; returns what it printed."""
    with attacking(*command, folder=folder) as process:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        return said
