"""What container a cgroup's path tells."""

import pytest

from qmond.processes.cgroups import container_of

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
