"""cgroup v2 IDs and paths."""

from pathlib import Path

import pytest

from qmond.cgroups import CgroupPaths, container_of, parse_mount


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


ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("path", "container"),
    [
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/docker/{ID}", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", ID),
        (f"/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-{ID}.scope", ID),
        (f"/kubepods/burstable/pod1/{ID}", ID),
        (f"/kubepods.slice/crio-{ID}.scope", ID),
        (f"/docker/{'f' * 64}/docker/{ID}", ID),
        ("/lxc.payload.web/init.scope", "web"),
        ("/lxc/web/x", "web"),
        ("/machine.slice/systemd-nspawn@deb.service/payload", "deb"),
        ("/machine.slice/machine-deb.scope", "deb"),
        ("/user.slice/user-1000.slice/session-1.scope", None),
        ("/", None),
        (None, None),
    ],
)
def test_the_container_that_a_path_tells(path: str | None, container: str | None) -> None:
    assert container_of(path) == container
