"""What a host can really do, where its advertised answer lies."""

from __future__ import annotations

import functools
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..xml import Document

VIRTUALIZATION = {"vmx": "VT-x", "svm": "AMD-V"}
"""The flags of x86 processors that can virtualize, with the names that people know."""
_MODELS_WITH_SVM = ("EPYC", "Dhyana", "Opteron_G", "phenom")
"""Starts of libvirt's names of processors that have svm; of what a model has, capabilities list nothing."""


def host_can_accelerate(capabilities: Document, *, local: bool) -> bool:
    """Whether guests of the host's own architecture would run under KVM.

    libvirt lists kvm whenever /dev/kvm is there, even where the processor has no virtualization and every guest would
    hang. On x86 the processor's flags decide: of this machine's, or as the remote host's capabilities list them.
    """
    root = capabilities.root
    arch = root.findtext("host/cpu/arch") or ""
    offered = any(
        domain.get("type") == "kvm"
        for guest in root.iterfind("guest/arch")
        if guest.get("name") == arch
        for domain in guest.iterfind("domain")
    )
    if not offered or arch not in ("x86_64", "i686"):
        return offered
    if local:
        return bool((processor_flags() or frozenset()) & VIRTUALIZATION.keys())
    named = {feature.get("name") for feature in root.iterfind("host/cpu/feature")}
    model = root.findtext("host/cpu/model") or ""
    return bool(named & VIRTUALIZATION.keys()) or model.startswith(_MODELS_WITH_SVM)


@functools.cache
def processor_flags(path: str = "/proc/cpuinfo", machine: str = "") -> frozenset[str] | None:
    """What this machine's processor can do; None where it does not tell, as only x86 on Linux does."""
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64", "i686", "i386"):
        return None
    try:
        with open(path, encoding="ascii", errors="replace") as lines:
            flags = (line.split(":", 1)[1].split() for line in lines if line.startswith("flags"))
            return frozenset(next(flags, ()))
    except OSError:
        return None
