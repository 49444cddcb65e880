"""`qmonctl record`: runs a command, and records the lines of its process tree."""

from typing import Final

ARCHIVES: Final = (".tar.gz", ".tgz")  # suffixes of a record that is an archive
