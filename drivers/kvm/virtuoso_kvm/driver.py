"""KvmHypervisor: what KVM and QEMU can do, as declarations; the machinery is libvirt_base's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import MappingProxyType

from virtuoso_core import URI
from virtuoso_core.diagnosis import Check
from virtuoso_core.errors import InvalidOptionError
from virtuoso_core.libvirt_base import LibvirtHypervisor, Wiring, XmlOption
from virtuoso_core.libvirt_base.hosts import host_can_accelerate
from virtuoso_core.libvirt_base.networks import HOST_ONLY, INTERNAL, NAT, Wirings
from virtuoso_core.libvirt_base.options import (
    BOOT,
    CMDLINE,
    DISK_FORMAT,
    HEADLESS,
    INITRD,
    KERNEL,
    MAX_CPUS,
    MAX_MEMORY,
    SERIAL_LOG,
    VNC_PASSWORD,
)
from virtuoso_core.spec import Feature, VMSpec, format_memory, option_table
from virtuoso_core.xml import DomainDocument

from .diagnosis import check_account, check_machine

_HOST_MODES = ("host-passthrough", "host-model")
_CPU_MODES = (*_HOST_MODES, "maximum")

_SYSTEM_NETWORKS: Wirings = MappingProxyType(
    {
        "nat": (NAT,),
        "bridged": (
            Wiring("On the host's own network: source is one of its bridges or network cards.", "bridge", "bridge"),
            Wiring("On the host's own network, by macvtap.", "direct", "dev", mode="bridge"),
        ),
        "host_only": (HOST_ONLY,),
        "internal": (INTERNAL,),
    }
)

_USER_NETWORKS: Wirings = MappingProxyType(
    {
        "nat": (Wiring("Behind the host's address, by QEMU itself.", "user"),),
        "bridged": (
            Wiring("On a bridge that /etc/qemu/bridge.conf allows to users: source names it.", "bridge", "bridge"),
        ),
    }
)


def _read_accel(document: DomainDocument) -> str | None:
    return {"kvm": "kvm", "qemu": "tcg"}.get(document.type or "")


def _write_accel(document: DomainDocument, value: str | None) -> None:
    document.type = "qemu" if value == "tcg" else "kvm"
    if value == "tcg" and document.cpu_mode in _HOST_MODES:
        _write_cpu(document, "maximum")  # an emulated processor cannot be the host's


def _read_cpu(document: DomainDocument) -> str | None:
    return document.cpu_model if document.cpu_mode in (None, "custom") else document.cpu_mode


def _write_cpu(document: DomainDocument, value: str | None) -> None:
    if value in _HOST_MODES and document.type == "qemu":
        raise InvalidOptionError(
            f"The processor {value!r} needs KVM, and this VM is emulated (accel is 'tcg').",
            hint="Take 'maximum', or a model such as 'Nehalem'.",
        )
    document.cpu_model = None
    document.cpu_check = document.cpu_migratable = document.cpu_match = None
    document.cpu_mode = value if value is None or value in _CPU_MODES else "custom"
    if document.cpu_mode == "custom":
        document.cpu_match = "exact"
        document.cpu_model = value


def _read_firmware(document: DomainDocument) -> str:
    return "uefi" if document.firmware == "efi" or document.loader_type == "pflash" else "bios"


def _write_firmware(document: DomainDocument, value: str | None) -> None:
    if value == _read_firmware(document):
        return
    document.loader = document.nvram = document.firmware_features = None
    document.firmware = "efi" if value == "uefi" else None
    if value == "uefi":
        # libvirt would pick the firmware for Secure Boot, which starts nothing unsigned
        document.secure_boot_name, document.secure_boot = "secure-boot", False


def _machine_means(wanted: str, found: str) -> bool:
    """libvirt spells the alias q35 out as pc-q35-7.2."""
    return found == wanted or f"-{wanted}-" in found or (wanted == "pc" and found.startswith("pc-i440fx-"))


class KvmHypervisor(LibvirtHypervisor):
    """KVM and QEMU: ``qemu:///system``, ``qemu:///session``, ``qemu:///embed?root=DIR``, and remote ones."""

    name = "kvm"
    schemes = ("qemu",)
    features = LibvirtHypervisor.features | {
        Feature.CREATE_DISK,
        Feature.UPLOAD,
        Feature.CLOUD_INIT,
        Feature.STATS,
        Feature.MIGRATE,
        Feature.RUN,
        Feature.CONSOLE,
        Feature.DISPLAY,
        Feature.SNAPSHOT,
        Feature.CLONE,
    }
    daemon = "virtqemud"
    daemon_packages = ("libvirt-daemon-system", "libvirt-daemon-kvm")
    wirings = _SYSTEM_NETWORKS
    bulk_stats = True
    snapshots_in_images = True
    undefine_flags = ("MANAGED_SAVE", "SNAPSHOTS_METADATA", "CHECKPOINTS_METADATA", "NVRAM", "TPM")
    options = option_table(
        XmlOption(
            "accel",
            "str",
            "The processor's own virtualization, or emulation; chosen by what the host can really do.",
            choices=("kvm", "tcg"),
            read=_read_accel,
            write=_write_accel,
        ),
        XmlOption(
            "machine",
            "str",
            "The machine type, such as q35 or pc.",
            minimum=1,
            maximum=64,
            same=_machine_means,
            example="q35",
            read=lambda document: document.machine,
            write=lambda document, value: setattr(document, "machine", value),
        ),
        XmlOption(
            "cpu",
            "str",
            "The processor: host-passthrough, host-model, maximum, or a model's name.",
            minimum=1,
            maximum=64,
            example="Nehalem",
            read=_read_cpu,
            write=_write_cpu,
        ),
        XmlOption(
            "firmware",
            "str",
            "What starts the machine.",
            choices=("bios", "uefi"),
            read=_read_firmware,
            write=_write_firmware,
        ),
        HEADLESS,
        VNC_PASSWORD,
        BOOT,
        KERNEL,
        INITRD,
        CMDLINE,
        SERIAL_LOG,
        DISK_FORMAT,
        MAX_CPUS,
        MAX_MEMORY,
    )

    @classmethod
    def _needs_event_loop(cls, uri: URI) -> bool:
        return uri.path == "/embed"

    @classmethod
    def _diagnose(cls, uri: URI) -> Iterable[Check]:
        yield from super()._diagnose(uri)
        yield from check_machine(uri)

    @classmethod
    def _diagnose_connection(cls, uri: URI) -> Iterable[Check]:
        yield from check_account(uri, cls.daemon_packages)
        yield from super()._diagnose_connection(uri)

    @classmethod
    def wirings_at(cls, uri: URI) -> Wirings:
        """Users and embedded drivers have no networks of libvirt's."""
        return _USER_NETWORKS if uri.path in ("/session", "/embed") else cls.wirings

    def new_document(self) -> DomainDocument:
        """The template, accelerated where the host can."""
        document = super().new_document()
        if host_can_accelerate(self.capabilities(), local=self.local):
            document.cpu_mode, document.cpu_migratable = "host-passthrough", "on"
        else:
            document.type = "qemu"
        return document

    def patch(self, document: DomainDocument, spec: VMSpec, changed: frozenset[str]) -> None:
        """Write the changed values; memory and its maximum bound each other, and may both change."""
        most = spec.options.get("max_memory")
        if "options.max_memory" in changed and most is not None:
            document.set_max_memory(most)
        super().patch(document, spec, changed)
        most = document.max_memory
        if "options.max_memory" in changed and most is not None and most < (document.memory or 0):
            raise InvalidOptionError(
                f"The VM {document.name!r} starts with {format_memory(document.memory or 0)} of memory: it cannot have "
                f"{format_memory(most)} at most.",
                hint="Ask for more, or lower its memory too.",
                vm=document.name,
                uri=self.uri,
            )

    def log_of(self, name: str) -> str | None:
        """libvirt's own log of the VM: what QEMU was started with, and said."""
        root = "~/.cache/libvirt/qemu/log" if self.uri.path == "/session" else "/var/log/libvirt/qemu"
        return None if self.uri.path == "/embed" else f"{root}/{name}.log"

    def saved_memory_folder(self) -> str | None:
        """libvirt tells it to nobody: its usual places on this machine."""
        if not self.local or "socket" in self.uri.query:
            return None
        return {
            "/system": "/var/lib/libvirt/qemu/save",
            "/session": os.path.join(
                os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "libvirt/qemu/save"
            ),
        }.get(self.uri.path)

    def seed_bus(self, document: DomainDocument) -> str:
        """By virtio, which is in every cloud image; some have no driver for SATA, such as Debian's genericcloud."""
        controllers = document.root.findall("devices/controller[@type='scsi']")
        if not controllers:
            document.add_device("controller", type="scsi", index="0", model="virtio-scsi")
        elif controllers[0].get("model") != "virtio-scsi":
            return super().seed_bus(document)
        return "scsi"
