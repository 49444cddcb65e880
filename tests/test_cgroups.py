"""cgroup v2 IDs and paths."""

from pathlib import Path

from qmond.cgroups import CgroupPaths, parse_mount


def test_finds_the_hierarchy() -> None:
    other = b"26 1 0:22 / /x rw - tmpfs t rw\n"
    info = b"25 1 0:21 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" + other
    assert parse_mount(info) == "/sys/fs/cgroup/unified"
    assert parse_mount(other) is None


def test_an_id_is_a_directorys_inode(tmp_path: Path) -> None:
    hierarchy = tmp_path / "cgroup"
    below = hierarchy / "a.slice" / "b.scope"
    below.mkdir(parents=True)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(f"25 1 0:21 / {hierarchy} rw - cgroup2 c rw\n")
    paths = CgroupPaths(tmp_path)
    assert paths(below.stat().st_ino) == "/a.slice/b.scope"
    assert paths(hierarchy.stat().st_ino) == "/"
    assert paths(1) is None
