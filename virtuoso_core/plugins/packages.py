"""Which package to advise for a scheme that no installed driver serves: the one place that names drivers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SCHEME_PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "qemu": "virtuoso-kvm",
        "xen": "virtuoso-xen",
        "vbox": "virtuoso-vbox",
        "esx": "virtuoso-vmware",
        "vpx": "virtuoso-vmware",
        "gsx": "virtuoso-vmware",
        "vmwarews": "virtuoso-vmware",
        "vmwareplayer": "virtuoso-vmware",
        "vmwarefusion": "virtuoso-vmware",
    }
)

EXAMPLE_PACKAGE = SCHEME_PACKAGES["qemu"]
"""What to advise where nothing says which hypervisor is meant."""
