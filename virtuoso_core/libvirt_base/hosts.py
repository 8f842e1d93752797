"""What a host can really do, where its advertised answer lies."""

from __future__ import annotations

import functools
import os
import platform

from ..xml import Document

_FLAGS = {"vmx", "svm"}
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
        return bool(_local_flags() & _FLAGS)
    named = {feature.get("name") for feature in root.iterfind("host/cpu/feature")}
    model = root.findtext("host/cpu/model") or ""
    return bool(named & _FLAGS) or model.startswith(_MODELS_WITH_SVM)


@functools.cache
def _local_flags() -> set[str]:
    if platform.machine() not in ("x86_64", "i686", "i386") or not os.path.exists("/proc/cpuinfo"):
        return set()
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())
