"""A Debian with a real cloud-init, told by ``vm.cloud_init()`` who it is."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Console, NewVM, qemu_img
from tests.labs.hosts import PrivateHost, cloud_image, no_cloud_image
from virtuoso_core import Hypervisor, State

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here"
PASSWORD = "correct horse battery staple"  # noqa: S105 - of a guest that lives for a minute
SCRIPT = """#!/bin/sh
{
    echo "TOLD hostname=$(hostname) user=$(id -un 1000)"
    echo "TOLD key=$(cat /home/me/.ssh/authorized_keys)"
    hash=$(getent shadow me | cut -d : -f 2)
    salt=$(echo "$hash" | cut -d '$' -f 4)
    again=$(python3 -W ignore -c 'import crypt, sys; print(crypt.crypt(sys.argv[1], sys.argv[2]))' \\
        'correct horse battery staple' "$hash")
    [ -n "$salt" ] && [ "$again" = "$hash" ] && echo "TOLD password works"
    su me -c 'sudo -n id -un' | sed 's/^/TOLD sudo=/'
} >/dev/ttyS0
"""


@pytest.fixture
def cloud_disk(host: PrivateHost) -> Iterator[str]:
    """An overlay of the cloud image, larger than it."""
    reason = no_cloud_image()
    if reason is not None:
        pytest.skip(reason)
    path = host.images / f"cloud-{secrets.token_hex(4)}.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", cloud_image(), path, "3G")
    yield str(path)
    path.unlink(missing_ok=True)


def seeds(host: PrivateHost) -> list[Path]:
    """What cloud-init reads, of all VMs of the host."""
    return sorted(host.images.glob("*.cloud-init.iso"))


@pytest.mark.timeout(900)
def test_a_guest_is_what_it_was_told(
    host: PrivateHost, hypervisor: Hypervisor, new_vm: NewVM, cloud_disk: str, console: Console
) -> None:
    """Host name, user, key, password, sudo and the script; the second start does not do it again."""
    vm = new_vm(disk_image=cloud_disk, memory="512 MiB", cpus=2)
    vm.set("serial_log", console.path_on_host)
    vm.cloud_init(user="me", ssh_key=KEY, password=PASSWORD, hostname="told", user_data=SCRIPT)
    vm.save()
    (seed,) = seeds(host)
    assert seed.name.startswith(f"{vm.name}-")
    assert stat.S_IMODE(os.stat(seed).st_mode) == 0o600
    assert PASSWORD.encode() not in seed.read_bytes()
    assert PASSWORD not in vm.spec
    assert "$6$" not in vm.spec

    vm.start()
    # libvirt gives it to the user who runs QEMU, and to nobody else
    found = os.stat(seed)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.stat(cloud_disk).st_uid)
    assert found.st_uid != 0
    console.wait_for("CLOUD-GUEST-READY", timeout=420)
    told = [line.strip().removeprefix("TOLD ") for line in console.text.splitlines() if line.startswith("TOLD")]
    assert told == ["hostname=told user=me", f"key={KEY}", "password works", "sudo=root"]

    vm.stop(timeout=120)
    assert vm.state is State.STOPPED
    vm.destroy()
    assert seeds(host) == []
    assert Path(cloud_disk).exists()
