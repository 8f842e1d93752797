"""The whole story: one cloud image becomes three machines, which get into trouble, go back and leave nothing behind."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.conftest import qemu_img
from tests.labs.hosts import REPOSITORY, PrivateHost, cloud_image, no_cloud_image
from virtuoso_core import Hypervisor, State

SCRIPT = REPOSITORY / "docs" / "examples" / "three-machines.sh"
PICTURES = os.environ.get("VIRTUOSO_TEST_PICTURES")
"""Where to leave the pictures of the screens, for people to look at."""


@pytest.fixture
def base_disk(host: PrivateHost) -> Iterator[str]:
    """A disk with a Debian with cloud-init, alone in a directory that is otherwise as it was afterwards."""
    reason = no_cloud_image()
    if reason is not None:
        pytest.skip(reason)
    folder = host.images / "three"
    folder.mkdir()
    path = folder / "base.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", cloud_image(), path)
    yield str(path)
    shutil.rmtree(folder)


def left(disk: str) -> list[str]:
    """What lies in the disk's directory."""
    return sorted(os.listdir(Path(disk).parent))


@pytest.mark.timeout(1200)
def test_three_machines(hypervisor: Hypervisor, base_disk: str) -> None:
    """Clones with seeds; addresses, a command inside, a picture; a snapshot with memory, harm, and back."""
    base = hypervisor.new_vm()
    base.name, base.memory, base.cpus, base.disk_image = "base", "384 MiB", 1, base_disk
    base.network("nat")
    base.save()
    before = Path(base_disk).read_bytes()

    machines = [base.clone(f"web-{number}") for number in (1, 2, 3)]
    for vm in machines:
        vm.cloud_init("me", password="between-us")  # noqa: S106 - of a guest that lives for a minute
        vm.save()
        vm.start()

    addresses = {vm.wait_for_address(timeout=600).ip for vm in machines}
    assert len(addresses) == 3
    for vm in machines:
        vm.run(["cloud-init", "status", "--wait"], timeout=600)
        assert vm.run(["hostname"]).text.strip() == vm.name
        assert vm.run(["id", "-un", "me"]).text.strip() == "me"

        picture = Image.open(io.BytesIO(vm.screenshot()))
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 1, "the screen is blank"
        if PICTURES:
            picture.save(Path(PICTURES) / f"{vm.name}.png")

        boot = vm.run(["cat", "/proc/sys/kernel/random/boot_id"]).text
        assert vm.snapshot("working").state is State.RUNNING
        vm.run(["rm", "-rf", "/home/me"])
        assert vm.run(["test", "-e", "/home/me"]).exit_code != 0
        vm.revert("working")
        assert vm.state is State.RUNNING
        assert vm.run(["test", "-e", "/home/me"]).exit_code == 0
        assert vm.run(["cat", "/proc/sys/kernel/random/boot_id"]).text == boot, "it was started anew"

    for vm in machines:
        vm.stop(timeout=120)
        vm.destroy(delete_disk=True)
    base.destroy()
    assert hypervisor.vms() == []
    assert left(base_disk) == ["base.qcow2"]
    assert Path(base_disk).read_bytes() == before


@pytest.mark.timeout(1200)
def test_the_documented_script(host: PrivateHost, hypervisor: Hypervisor, base_disk: str) -> None:
    """The same by lines of the command, as docs/ has them."""
    pictures = Path(PICTURES or Path(base_disk).parent.parent / "pictures")
    pictures.mkdir(exist_ok=True)
    script = 'cd "$1" && exec sh -x "$2" "$3"'
    path = f"{REPOSITORY / '.venv' / 'bin'}:{os.environ['PATH']}"
    settings = {"PATH": path, "VIRTUOSO_DEFAULT_URI": "qemu:///system"}
    done = host.run(["sh", "-c", script, "sh", pictures, SCRIPT, base_disk], env=settings, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("web-1", "web-2", "web-3"):
        assert f"\n{name}\n" in done.stdout, "its host name"
        assert f"{name}: back at working, running" in done.stdout
        with Image.open(pictures / f"{name}.png") as picture:
            assert picture.format == "PNG"
    assert done.stdout.count("/home/me\n") == 3
    assert hypervisor.vms() == []
    assert left(base_disk) == ["base.qcow2"]
    if not PICTURES:
        shutil.rmtree(pictures)
