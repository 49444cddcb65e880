"""`python -m qmond.log.compress zstd|gzip FILE`: compress a rotated file of the log, and remove it.

This is a process of its own, so that it costs the daemon neither time nor memory. The compressed
file gets its name when it is complete and on the disk. So a reader always finds one of the two.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import sys
from pathlib import Path
from typing import IO, Final

from qmond.lognames import COMPRESSED, PART

__all__ = ["main"]

_NICE: Final = 19
_STEP: Final = 1 << 17


def main() -> int:
    """Compress one file; returns the exit status."""
    method, path = sys.argv[1], Path(sys.argv[2])
    os.nice(_NICE)
    done = path.with_name(path.name + COMPRESSED[method])
    unfinished = done.with_name(done.name + PART)
    try:
        _compress(method, path, unfinished)
        unfinished.rename(done)
        path.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        sys.stderr.write(f"qmond: {path} is not compressed: {error.strerror}\n")
        return 1
    return 0


def _compress(method: str, path: Path, unfinished: Path) -> None:
    unfinished.unlink(missing_ok=True)  # of a process that was killed
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with path.open("rb") as source, os.fdopen(os.open(unfinished, flags, 0o600), "wb") as sink:
        found = os.fstat(source.fileno())
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        with _compressor(method, sink) as compressor:
            shutil.copyfileobj(source, compressor, _STEP)
        sink.flush()
        os.fchown(sink.fileno(), found.st_uid, found.st_gid)
        os.fchmod(sink.fileno(), found.st_mode & 0o777)
        os.utime(sink.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
        os.fdatasync(sink.fileno())
        for file in (source, sink):  # they are not read soon
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _compressor(method: str, sink: IO[bytes]) -> IO[bytes]:
    if method == "gzip":
        return gzip.GzipFile(filename="", mode="wb", fileobj=sink)  # type: ignore[return-value] # only written to
    import zstandard  # noqa: PLC0415 - not needed for gzip

    writer: IO[bytes] = zstandard.ZstdCompressor().stream_writer(sink, closefd=False)
    return writer


if __name__ == "__main__":
    sys.exit(main())
