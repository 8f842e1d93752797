"""What VMs use, as libvirt's statistics tell it: all that run in one call, or one VM."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import VMNotFoundError
from ..facts import Stats
from .binding import libvirt

if TYPE_CHECKING:
    from .hypervisor import LibvirtHypervisor

_GROUPS = ("STATE", "CPU_TOTAL", "BALLOON", "VCPU", "INTERFACE", "BLOCK")
_NANOSECONDS = 1e9


def all_stats(hypervisor: LibvirtHypervisor) -> list[Stats]:
    """What each running VM uses."""
    binding, native = libvirt(), hypervisor.connection.native
    # one in the middle of a long job must not block the rest
    flags = binding.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | binding.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    found = hypervisor.connection.call("ask what the VMs use", native.getAllDomainStats, _wanted(), flags)
    now = time.time()
    lines = (_stats(hypervisor, domain, values, now) for domain, values in found if not hypervisor._is_host(domain))
    return [line for line in lines if line is not None]


def stats_of(hypervisor: LibvirtHypervisor, domain: Any, name: str) -> Stats:
    """What one VM uses. Raises VMNotFoundError."""
    flags = libvirt().VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    native = hypervisor.connection.native
    found = hypervisor.connection.call(
        f"ask what the VM {name!r} uses", native.domainListGetStats, [domain], _wanted(), flags, vm=name
    )
    for same, values in found:
        line = _stats(hypervisor, same, values, time.time())
        if line is not None:
            return line
    raise VMNotFoundError(f"The VM {name!r} is gone from {hypervisor.uri}.", vm=name, uri=hypervisor.uri)


def _wanted() -> int:
    wanted = 0
    for group in _GROUPS:
        wanted |= getattr(libvirt(), f"VIR_DOMAIN_STATS_{group}")
    return wanted


def _stats(hypervisor: LibvirtHypervisor, domain: Any, values: Mapping[str, Any], now: float) -> Stats | None:
    memory, cpus, used = values.get("balloon.current"), values.get("vcpu.current"), values.get("cpu.time")
    if memory is None or cpus is None:
        try:  # the mock tells the state only
            _, _, memory, cpus, used = hypervisor.connection.call("look at a VM", domain.info)
        except VMNotFoundError:
            return None
    return Stats(
        name=domain.name(),
        uuid=domain.UUIDString(),
        time=now,
        cpus=cpus,
        cpu_time=None if used is None else used / _NANOSECONDS,
        memory=memory,
        memory_used=_used_inside(values),
        disk_read=_sum(values, "block", "rd.bytes"),
        disk_written=_sum(values, "block", "wr.bytes"),
        net_received=_sum(values, "net", "rx.bytes"),
        net_sent=_sum(values, "net", "tx.bytes"),
    )


def _used_inside(values: Mapping[str, Any]) -> int | None:
    """What the guest's balloon driver last told; caches, which the guest gives up when it needs to, are not used."""
    total, free = values.get("balloon.available"), values.get("balloon.usable", values.get("balloon.unused"))
    if not values.get("balloon.last-update") or total is None or free is None:
        return None
    return max(0, int(total) - int(free))


def _sum(values: Mapping[str, Any], kind: str, what: str) -> int | None:
    """Over all devices of a kind; None where any is there and none is told of."""
    number = values.get(f"{kind}.count")
    told = [value for at in range(number or 0) if (value := values.get(f"{kind}.{at}.{what}")) is not None]
    return sum(told) if told or number == 0 else None
