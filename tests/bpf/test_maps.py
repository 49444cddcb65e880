"""What needs no map: how many CPUs there may be. Maps themselves the root tests use."""

import pytest

from qmond.bpf.maps import possible_cpus


@pytest.mark.parametrize(("text", "count"), [("0\n", 1), ("0-3\n", 4), ("0-1,4-5,9\n", 5)])
def test_possible_cpus(text: str, count: int) -> None:
    assert possible_cpus(text) == count
