"""`script/demo` shows what the README says that it shows."""

import os
import subprocess
from pathlib import Path

from examples import Likeness, examples_in

ROOT = Path(__file__).parents[2]


def test_shows_what_the_readme_says() -> None:
    """Run it as `script/test` has set things up, so that it finds its environment."""
    environment = {key: value for key, value in os.environ.items() if key != "QMOND_CONFIG"}
    done = subprocess.run(
        [ROOT / "script/demo"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    shown: list[str] = []
    for example in examples_in(ROOT / "README.md", "README.md"):
        if example.output is not None:
            shown += [f"$ {example.text}", *example.output]
    came = done.stdout.splitlines()
    first = came.index(shown[0])
    difference = Likeness().difference([*shown, "…"], [line for line in came[first:] if line])
    assert not difference, f"{difference}\n{done.stdout}"
