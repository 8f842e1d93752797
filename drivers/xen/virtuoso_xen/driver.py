"""XenHypervisor: what Xen's libxl toolstack can do, as declarations; the machinery is libvirt_base's."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from virtuoso_core import URI
from virtuoso_core.diagnosis import Check
from virtuoso_core.errors import HypervisorError, UnsupportedError
from virtuoso_core.images import HostUser
from virtuoso_core.libvirt_base import LibvirtHypervisor, LibvirtVM, Wiring, XmlOption
from virtuoso_core.libvirt_base.networks import HOST_ONLY, INTERNAL, NAT
from virtuoso_core.libvirt_base.options import (
    BOOT,
    CMDLINE,
    DISK_FORMAT,
    HEADLESS,
    INITRD,
    KERNEL,
    MAX_CPUS,
    VNC_PASSWORD,
)
from virtuoso_core.spec import BASIC, Feature, State, VMSpec, option_table
from virtuoso_core.xml import DomainDocument

from . import machines
from .diagnosis import check_host

_PATIENCE = 60.0
"""Seconds that libxl is given to finish what it began."""


class XenVM(LibvirtVM):
    """A VM of Xen's."""

    def _get_state(self) -> State:
        """libvirt calls a VM off while libxl still takes it apart, and until then refuses to start or remove it."""
        end = time.monotonic() + _PATIENCE
        while (state := super()._get_state()) is State.STOPPED and self._call("look at", self._domain.isActive):
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        return state

    def _power_off(self) -> None:
        super()._power_off()
        self._get_state()

    def _reboot(self) -> None:
        """libvirt itself starts the VM anew when the guest has ended, and shows it as off meanwhile: wait for that."""
        before = self._number()
        try:
            super()._reboot()
        except HypervisorError as error:
            raise UnsupportedError(
                f"Xen could not ask the guest of {self.name!r} to start anew: it seems to have no drivers for Xen.",
                hint="vm.stop(), then vm.start().",
                **self._where,
            ) from error
        end = time.monotonic() + _PATIENCE
        while self._number() in (before, -1) and time.monotonic() < end:
            time.sleep(0.1)

    def _suspend(self) -> None:
        """libxl has the guest stop by itself, which one that stands still cannot."""
        paused = self._get_state() is State.PAUSED
        if paused:
            self._resume()
        try:
            super()._suspend()
        except BaseException:
            if paused and self._get_state() is State.RUNNING:
                self._pause()
            raise

    def _number(self) -> int:
        """Xen's own number of the VM, another one at each start; -1 while it is off."""
        lookup = self._hypervisor.connection.native.lookupByUUIDString
        return int(self._call("look at", lookup, self._uuid).ID())

    def _prepare_start(self, start_networks: bool) -> None:
        super()._prepare_start(start_networks)
        assert self._document is not None
        machines.check(self._document, machines.device_problems(self._document))
        machines.check(self._document, machines.boot_problems(self._document))

    def _start(self) -> None:
        try:
            super()._start()
        except HypervisorError as error:
            error.hint = error.hint or "Its host keeps the reason in /var/log/libvirt/libxl/libxl-driver.log."
            raise


class XenHypervisor(LibvirtHypervisor):
    """Xen, through its libxl toolstack: ``xen:///system``, and remote ones such as ``xen+ssh://root@host/system``."""

    name = "xen"
    schemes = ("xen",)
    features = BASIC - {Feature.RENAME, Feature.SCREENSHOT} | {
        Feature.CREATE_DISK,
        Feature.UPLOAD,
        Feature.DISKS,
        Feature.CDROM,
        Feature.CLONE,
        Feature.CLOUD_INIT,
        Feature.CONSOLE,
        Feature.DISPLAY,
        Feature.LIVE,
        Feature.AUTOSTART,
        Feature.SUSPEND,
        Feature.EVENTS,
    }
    mac_prefix = "00:16:3e"
    vm_class = XenVM
    daemon = "virtxend"
    daemon_packages = ("libvirt-daemon-system libvirt-daemon-driver-xen", "libvirt-daemon-xen")
    undefine_flags = ("MANAGED_SAVE",)
    address_sources = ("LEASE",)
    wirings = MappingProxyType(
        {
            "nat": (NAT,),
            "bridged": (Wiring("On the host's own network: source is one of its bridges.", "bridge", "bridge"),),
            "host_only": (HOST_ONLY,),
            "internal": (INTERNAL,),
        }
    )
    options = option_table(  # in the order in which they are written: the later build on the earlier
        XmlOption(
            "virtualization",
            "str",
            "hvm boots what is on any disk; pv and pvh are for guests that know Xen, pvh from a kernel.",
            choices=("hvm", "pv", "pvh"),
            read=machines.virtualization,
            write=machines.write_virtualization,
        ),
        dataclasses.replace(KERNEL, write=machines.write_kernel),
        INITRD,
        dataclasses.replace(CMDLINE, example="root=/dev/xvda1 console=hvc0"),
        XmlOption(
            "bootloader",
            "str",
            "What finds the kernel on the disk of a pv or pvh VM; pygrub for pv.",
            minimum=1,
            maximum=4096,
            example=machines.PYGRUB,
            read=lambda document: document.bootloader,
            write=machines.write_bootloader,
        ),
        HEADLESS,
        VNC_PASSWORD,
        BOOT,
        MAX_CPUS,
        dataclasses.replace(DISK_FORMAT, choices=("qcow2", "raw", "qed")),
    )

    @classmethod
    def _diagnose_connection(cls, uri: URI) -> Iterable[Check]:
        if uri.is_local:
            yield check_host()
        yield from super()._diagnose_connection(uri)

    def image_user(self) -> HostUser:
        """libxl and its device models run as root."""
        return HostUser.of(0, 0)

    def _is_host(self, domain: Any) -> bool:
        return bool(domain.ID() == 0)

    def patch(self, document: DomainDocument, spec: VMSpec, changed: frozenset[str]) -> None:
        """Write the changed values; refuse what libvirt would take now, and libxl fail on at the next start."""
        super().patch(document, spec, changed)
        if spec.options.get("boot") is None and machines.virtualization(document) != "hvm":
            document.set_boot(())  # a new VM's, which is HVM, was put in its place
        if changed & {"networks", "disk_image", "more_disks", "cdrom", "seed", "options.virtualization"}:
            machines.check(document, machines.device_problems(document))
        if any(name.startswith("options.") for name in changed):
            machines.check(document, machines.option_problems(document))
