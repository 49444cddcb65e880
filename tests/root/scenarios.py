"""Stress scenarios, in which qmond's events are compared with what strace or the kernel says.

    python tests/root/scenarios.py --runs 5 --out docs/scenarios.md

`difference` is the number of entries that only the truth has, or only qmond.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lives
import trees
from harness import builder
from report import Report
from stage import Row, staged

SCENARIOS = (
    trees.pipeline,
    trees.pipeline_arm,
    trees.pipeline_binfmt,
    trees.fork_bomb,
    trees.spawn,
    trees.spawn_native,
    trees.threads,
    trees.daemonising,
    trees.native_and_back,
    trees.chroot,
    trees.chroot_binfmt,
    trees.namespaces,
    lives.killed,
    lives.reused_ids,
    lives.crowd,
    lives.already_running,
    lives.switches,
)
_COLUMNS = ("scenario", "events", "truth", "source of the truth", "qmond", "difference")


def compare(runs: int, folder: Path) -> Iterator[tuple[tuple[object, ...], int]]:
    """Run every scenario several times; yield the table's rows, and how wrong each is."""
    build = builder(folder)
    for scenario in SCENARIOS:
        rows: dict[str, list[Row]] = {}
        for run in range(runs):
            place = folder / f"{scenario.__name__}-{run}"
            place.mkdir()
            with staged(place, build) as stage:
                for row in scenario(stage):
                    rows.setdefault(row.what, []).append(row)
        title = (scenario.__doc__ or "").rstrip(".")
        for what, same in rows.items():
            truth = sum(row.truth.total() for row in same)
            seen = sum(row.seen.total() for row in same)
            difference = sum(row.difference for row in same)
            for row in same:
                if row.difference:
                    print(f"{scenario.__name__}: {row}", file=sys.stderr)
            empty = sum(not row.truth for row in same)  # nothing was compared
            yield (title, what, truth, same[0].source, seen, difference), difference + empty
            title = ""


def main() -> int:
    """Write the table, and say whether all differences are 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each scenario")
    parser.add_argument("--out", type=Path, help="the file for the table, otherwise printed")
    options = parser.parse_args()
    about = f"""\
From one run of `make scenarios`: real guests, {options.runs} runs of each scenario. Each run has a
daemon of its own. qmond's events are compared with the truth, for example with the calls that
strace saw. The figures are sums over all runs. `difference` counts entries that only the truth has,
or only qmond.
"""
    report, wrong = Report("Scenarios", about, _COLUMNS), 0
    with tempfile.TemporaryDirectory(prefix="qmond-scenarios-") as folder:
        for cells, faults in compare(options.runs, Path(folder)):
            report.add(*cells)
            wrong += faults
    report.write(options.out)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
