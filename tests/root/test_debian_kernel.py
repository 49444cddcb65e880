"""Debian 12's own kernel: what the verifier of a newer one takes, that of this one may refuse.

It runs in a virtual machine, by emulation, that has this machine's root, and in it one of the
tests that are beside this one: others take too long there.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.vm
ROOT = Path(__file__).parents[2]
UNPACKED = Path(sys.prefix) / "kernel"
BUSYBOX = UNPACKED / "bin/busybox"
MODULES = (
    "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
    "netfs", "fscache", "9pnet", "9pnet_virtio", "9p", "overlay", "binfmt_misc",
)  # fmt: skip
"""What the machine needs to have a root, in the order in which one needs the other."""
INIT = """#!/busybox sh
/busybox --install -s /bin
mount -t proc proc /proc
for name in {modules}; do insmod /$name.ko; done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose root /lower
mount -t tmpfs none /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work none /root
mount -t proc none /root/proc
mount -t sysfs none /root/sys
mount -t devtmpfs none /root/dev
mount -t tmpfs none /root/run
mount -t tracefs none /root/sys/kernel/tracing
mount -t cgroup2 none /root/sys/fs/cgroup
mount -t binfmt_misc none /root/proc/sys/fs/binfmt_misc
ip link set lo up
chroot /root /usr/bin/env -i {command}
echo "ended with $?"
poweroff -f
"""
TEST = "tests/root/test_actions.py::test_each_event_says_what_the_guest_did[direct-aarch64]"


@pytest.fixture
def initrd(tmp_path: Path) -> Path:
    """Make the first root, which mounts this machine's and runs the tests there."""
    folder = tmp_path / "initrd"
    for name in ("bin", "proc", "lower", "upper", "root"):
        (folder / name).mkdir(parents=True)
    (folder / "busybox").write_bytes(BUSYBOX.read_bytes())
    (folder / "busybox").chmod(0o755)
    for name in MODULES:
        (module,) = UNPACKED.glob(f"lib/modules/*/kernel/**/{name}.ko")
        (folder / module.name).write_bytes(module.read_bytes())
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    words = [f"--chdir={ROOT}", path, f"PYTHONPATH={ROOT}", "CI=true"]  # this tree's code, too
    words += [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", TEST]
    command = shlex.join(words)
    (folder / "init").write_text(INIT.format(modules=" ".join(MODULES), command=command))
    (folder / "init").chmod(0o755)
    image = tmp_path / "initrd.img"
    with image.open("wb") as out:
        subprocess.run(
            f"find . | {shlex.quote(str(BUSYBOX))} cpio -o -H newc",
            shell=True, cwd=folder, stdout=out, stderr=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    return image


def test_the_kernel_side_loads_and_tells_all(initrd: Path, tmp_path: Path) -> None:
    (kernel,) = UNPACKED.glob("boot/vmlinuz-*")
    command: list[str | Path] = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G",
        "-nographic", "-nic", "none", "-no-reboot", "-kernel", kernel, "-initrd", initrd,
        "-append", "console=ttyS0 quiet panic=-1",
        "-virtfs",
        "local,path=/,mount_tag=root,security_model=passthrough,readonly=on,multidevs=remap",
    ]  # fmt: skip
    console = tmp_path / "console"
    with console.open("wb") as out:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True, timeout=600
        )
    said = console.read_text(errors="replace")
    assert "ended with 0" in said, said[-5000:]
