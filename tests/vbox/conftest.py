"""A real VirtualBox, from tests/labs/vbox, for the tests here."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from virtuoso_core import Hypervisor, connect

LAB = Path(__file__).resolve().parent.parent / "labs" / "vbox"
CHROOT = LAB / "chroot.sh"
VARIABLE = "VIRTUOSO_TEST_URI_VBOX"
HOW = (
    f"no VirtualBox: tests/labs/vbox/chroot.sh build (once), tests/labs/vbox/chroot.sh up, "
    f'export {VARIABLE}="vbox:///session?vboxmanage=$PWD/tests/labs/vbox/vboxmanage"'
)
_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()

Manage = Callable[..., str]


@pytest.fixture(scope="session")
def lab() -> Path:
    """The lab's directory; skips where the lab is not up."""
    if VARIABLE not in os.environ:
        pytest.skip(HOW)
    done = subprocess.run([CHROOT, "dir"], capture_output=True, text=True, check=True, timeout=20)
    folder = Path(done.stdout.strip())
    if not (folder / "holder.pid").exists():
        pytest.skip(f"{VARIABLE} is set, and the lab is not up: tests/labs/vbox/chroot.sh up")
    machines = folder / "images" / "machines"  # their settings have the same path inside and outside
    command = [LAB / "vboxmanage", "-q", "setproperty", "machinefolder", machines]
    subprocess.run(command, check=True, timeout=60)
    return folder


@pytest.fixture(scope="session")
def uri(lab: Path) -> str:
    """Where the lab's VirtualBox is."""
    return os.environ[VARIABLE]


@pytest.fixture(scope="session")
def manage(lab: Path) -> Manage:
    """The lab's VBoxManage itself, for what somebody else does there."""

    def run(*words: str, check: bool = True) -> str:
        done = subprocess.run(
            [LAB / "vboxmanage", "-q", *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def inside(lab: Path) -> Callable[..., str]:
    """Runs a command in the lab."""

    def run(*words: str) -> str:
        done = subprocess.run([CHROOT, "exec", *words], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    return run


@pytest.fixture
def images(lab: Path) -> Path:
    """A directory of its own that has the same path for VirtualBox."""
    folder = lab / "images" / f"{os.getpid()}-{next(_numbers)}"
    folder.mkdir()
    return folder


@pytest.fixture
def make_image(images: Path, manage: Manage) -> Callable[[str], str]:
    """Makes an empty disk of a name, which VirtualBox does not know any more."""

    def make(name: str) -> str:
        path = str(images / name)
        manage("createmedium", "disk", "--filename", path, "--size", "16")
        manage("closemedium", "disk", path)
        return path

    return make


@pytest.fixture
def disk_image(make_image: Callable[[str], str]) -> str:
    """An empty disk that VirtualBox made and does not know any more."""
    return make_image("disk.vdi")


@pytest.fixture
def further_image(make_image: Callable[[str], str]) -> str:
    """Another one."""
    return make_image("further.vdi")


@pytest.fixture
def discs(images: Path) -> tuple[str, str]:
    """Two empty CDs."""
    made = images / "first one.iso", images / "second.iso"
    for path in made:
        path.write_bytes(bytes(1 << 20))
    return str(made[0]), str(made[1])


@pytest.fixture
def hypervisor(uri: str) -> Iterator[Hypervisor]:
    """An open connection; what a test leaves behind is removed."""
    with connect(uri) as opened:
        before = {vm.uuid for vm in opened.vms()}
        yield opened
        for vm in opened.vms():
            if vm.uuid not in before:
                vm.destroy(force=True)


@pytest.fixture
def on_the_labs_network(lab: Path) -> Iterator[None]:
    """This thread, and the processes that it starts, are in the lab's network, where its sshd listens."""
    libc = ctypes.CDLL(None, use_errno=True)
    holder = (lab / "holder.pid").read_text().strip()
    with open("/proc/self/ns/net") as home, open(f"/proc/{holder}/ns/net") as there:
        assert libc.setns(there.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), _CLONE_NEWNET) == 0


@pytest.fixture
def far_uri(lab: Path, on_the_labs_network: None) -> str:
    """The same VirtualBox, over ssh."""
    return f"vbox+ssh://root@127.0.0.1/session?keyfile={lab}/key&no_verify=1"
