"""What `virtuoso doctor` looks at for KVM and QEMU on this machine."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator

from virtuoso_core import URI
from virtuoso_core.diagnosis import Check, install, system
from virtuoso_core.libvirt_base.diagnosis import check_device, check_processor, check_programs, native_emulator

_DEVICE = "/dev/kvm"
_SLOW = "Guests run in software emulation, many times slower."
_DEBIAN_PACKAGES = {"qemu-system-x86_64": "qemu-system-x86", "qemu-system-aarch64": "qemu-system-arm"}


def _privileged(uri: URI) -> bool:
    """Whether guests run as a user that libvirt chooses, rather than as the one who connects."""
    return uri.path == "/system" or os.geteuid() == 0


def check_machine(uri: URI) -> Iterator[Check]:
    """The device, the processor and the programs, where guests would run on this machine."""
    if not uri.is_local:
        return
    processor = check_processor(_DEVICE, _SLOW)
    yield processor
    if processor.status != "warn":  # without it the device is of no use
        yield _check_device(shared=_privileged(uri) and _configured_user(uri) not in ("root", "0", "+0"))
    yield check_emulator()


def _check_device(shared: bool) -> Check:
    return check_device(
        "KVM",
        _DEVICE,
        group="kvm",
        shared=shared,
        absent="Switch on VT-x or AMD-V in the firmware, or nested virtualization where this machine is a guest itself."
        "\nThen: sudo modprobe kvm_intel || sudo modprobe kvm_amd",
        without=_SLOW,
    )


def check_emulator(machine: str = "") -> Check:
    """The programs that run the guests and read their images."""
    emulator = native_emulator(machine)
    programs = [(emulator, "/usr/libexec/qemu-kvm"), ("qemu-img",)]
    package = _DEBIAN_PACKAGES.get(emulator, "qemu-system")
    return check_programs("QEMU", programs, f"{package} qemu-utils", "qemu-kvm qemu-img")


def check_account(uri: URI, packages: tuple[str, str]) -> Iterator[Check]:
    """The user who is to run the guests: without it libvirt's driver does not start at all."""
    if not (uri.is_local and _privileged(uri)):
        return
    user = _configured_user(uri)
    if user is None or user.lstrip("+").isdecimal():
        return
    try:
        pwd.getpwnam(user)
    except KeyError:
        yield Check("Guests' user", "fail", f"There is no user {user!r} to run the guests as.", install(*packages))


def _configured_user(uri: URI) -> str | None:
    """By libvirt's configuration or, where it says nothing, as Debian builds it; None where that cannot be told."""
    folder = f"{uri.query['root']}/etc" if "root" in uri.query else "/etc/libvirt"
    usual = "libvirt-qemu" if system() == "debian" else None
    try:
        with open(f"{folder}/qemu.conf", encoding="utf-8", errors="replace") as lines:
            found = [match[1] for line in lines if (match := re.match(r'\s*user\s*=\s*"([^"]+)"', line))]
    except FileNotFoundError:
        return usual
    except OSError:
        return None
    return found[-1] if found else usual
