"""The arguments of `tail`, one by one; together: test_protocol.py."""

from pathlib import Path

import pytest

from qmond.processes.guests import architecture
from qmond.server.arguments import ARGUMENTS, Events


def test_events_know_which_were_named() -> None:
    assert ARGUMENTS["events"](["signal", "exec", "-READ"]) == Events(
        ["EXEC", "SIGNAL_GENERATE"], frozenset({"EXEC"})
    )


def test_architectures_are_those_of_qemu_in_any_case() -> None:
    assert ARGUMENTS["arch"](["Arm", "x86_64"]) == {"arm", "x86_64"}
    installed = {architecture(path.name) for path in Path("/usr/bin").glob("qemu-*-static")}
    ARGUMENTS["arch"]([name for name in installed if name])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("arm64", "unknown: arm64, perhaps arm"),
        ("mipsle", "unknown: mipsle, perhaps mipsel"),
        ("system", "unknown: system"),
    ],
)
def test_an_unknown_architecture_is_refused_and_where_takes_it(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}") as caught:
        ARGUMENTS["arch"](["arm", name])
    assert str(caught.value).endswith(f'`where` takes any other: arch == "{name}"')


@pytest.mark.parametrize(
    ("glob", "is_right"),
    [
        ("busybox", True),
        ("a[!]b]c[]d]", True),
        ("[[]", True),
        ("[", False),
        ("a[!]b", False),
        ("[a][b", False),
        ("/", False),
        ("*/", False),
        ("a\0b", False),
        ("x" * 4097, False),
    ],
)
def test_a_glob_can_match_a_path(glob: str, is_right: bool) -> None:  # noqa: FBT001
    if is_right:
        assert ARGUMENTS["guest"](glob) == glob
    else:
        with pytest.raises(ValueError, match=r"path|glob|no ]"):
            ARGUMENTS["guest"](glob)


@pytest.mark.parametrize("pid", [0, -1, -5, (1 << 22) + 1, 99_999_999])
def test_a_process_id_is_one_that_a_process_can_have(pid: int) -> None:
    assert ARGUMENTS["pids"]([1, 1 << 22]) == {1, 1 << 22}
    with pytest.raises(ValueError, match=f"^a process ID is from 1 to 4194304, not {pid}$"):
        ARGUMENTS["pids"]([1, pid])


@pytest.mark.parametrize("argument", ["events", "arch", "fields"])
def test_an_empty_name_is_told(argument: str) -> None:
    with pytest.raises(ValueError, match=r"^an empty name; a list of .* is needed$"):
        ARGUMENTS[argument]([""])


def test_an_empty_list_of_events_is_told() -> None:
    with pytest.raises(ValueError, match=r"^an empty list; a list of event names is needed$"):
        ARGUMENTS["events"]([])
