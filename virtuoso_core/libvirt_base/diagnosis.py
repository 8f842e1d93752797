"""The checks of `virtuoso doctor` that drivers on libvirt share or build theirs from. Nothing is loaded or changed."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import stat
from collections.abc import Iterable, Iterator
from shlex import quote
from typing import TYPE_CHECKING, Literal

from .. import images
from ..diagnosis import Check, install, join_group, user_name
from ..errors import HypervisorError, ImageError, ImageFormatError, UnsupportedError, VMNotFoundError
from ..uri import URI
from .binding import build_commands, libvirt
from .hosts import VIRTUALIZATION, processor_flags
from .starting import stopped_by_a_disk

if TYPE_CHECKING:
    from .hypervisor import LibvirtHypervisor


def check_binding() -> Check:
    """Whether Python finds libvirt's binding."""
    if importlib.util.find_spec("libvirt") is not None:
        return Check("libvirt binding", "ok", "The Python package libvirt is installed.")
    return Check(
        "libvirt binding",
        "fail",
        "The Python package libvirt is not installed, and the driver needs it. It is built from source, which takes "
        "libvirt's headers, pkg-config and a C compiler.",
        "\n".join(build_commands()),
    )


# The daemon.


def check_daemon(uri: URI, daemon: str, packages: tuple[str, str], folder: str | None = None) -> Check:
    """Whether somebody listens behind one of the daemon's sockets, and whether this user may talk to it.

    Args:
        uri: a local one.
        daemon: the modular daemon; libvirtd stands in for each.
        packages: that hold it: on Debian, on Fedora.
        folder: of the sockets, where it is not the usual one.
    """
    name, own = f"Daemon for {uri}", _is_own(uri)
    daemons = list(dict.fromkeys((daemon, "libvirtd")))
    sockets = _sockets(uri, daemon, folder or _folder(own))
    problems = {path: problem for path in sockets if (problem := _socket_problem(path))}
    for path in sockets:
        if path not in problems:
            return Check(name, "ok", f"It listens on {path}.")
    if "denied" in problems.values():
        advice = join_group("libvirt")
        if uri.path == "/system":
            advice += f"; or use your own: {uri.scheme}:///session"
        return Check(name, "fail", f"The user {user_name()} is not allowed to talk to it.", advice)
    programs = "/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", "")
    installed = next((program for program in daemons if shutil.which(program, path=programs)), None)
    if installed is None:
        missing = f"Neither {' nor '.join(daemons)}" if len(daemons) > 1 else f"No {daemon}"
        return Check(name, "fail", f"{missing} is installed.", install(*packages))
    if own:
        return Check(name, "ok", f"{installed} is installed; the connection starts it.")
    start = _start(installed)
    for path, problem in problems.items():
        if problem == "refused":
            return Check(name, "fail", f"{path} is left over from a daemon that does not run any more.", start)
    none = f"neither {' nor '.join(sockets)} exists" if len(sockets) > 1 else f"there is no {sockets[0]}"
    return Check(name, "fail", f"{installed} does not run: {none}.", start)


def _is_own(uri: URI) -> bool:
    """Whether each user has a daemon of one's own for the URI; root's is the system's."""
    return uri.path == "/session" and os.geteuid() != 0


def _folder(own: bool) -> str:
    if not own:
        return "/run/libvirt"
    return f"{os.environ.get('XDG_RUNTIME_DIR') or os.path.expanduser('~/.cache')}/libvirt"


def _sockets(uri: URI, daemon: str, folder: str) -> list[str]:
    if "socket" in uri.query:
        return [uri.query["socket"]]
    return list(dict.fromkeys((f"{folder}/{daemon.replace('libvirtd', 'libvirt')}-sock", f"{folder}/libvirt-sock")))


def _socket_problem(path: str) -> Literal["", "missing", "refused", "denied"]:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(2)
            client.connect(path)
    except PermissionError:
        return "denied"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "refused"
    return ""


def _start(program: str) -> str:
    if os.path.isdir("/run/systemd/system"):
        return f"sudo systemctl enable --now {program}.socket"
    return f"sudo virtlogd --daemon; sudo {program} --daemon"


# This machine, for drivers that run guests on it.


def check_device(name: str, path: str, *, group: str, shared: bool, absent: str, without: str) -> Check:
    """Whether a device is there and the user who runs the guests may read and write it.

    Args:
        name: of the check.
        path: of the device.
        group: that devices of this kind belong to.
        shared: whether guests run as a user of their own, as those of the system's daemon do, rather than as us.
        absent: what to do when there is none.
        without: a sentence on how guests do without it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Check(name, "warn", f"{path} does not exist. {without}", absent)
    except PermissionError:
        if not shared:
            return Check(name, "warn", f"{path} exists and {user_name()} may not open it. {without}", join_group(group))
    except OSError as error:
        return Check(name, "warn", f"{path} exists and does not answer: {error.strerror}. {without}", "sudo dmesg")
    mode = os.stat(path).st_mode
    if shared and mode & 0o060 != 0o060 and mode & 0o006 != 0o006:
        return Check(
            name,
            "warn",
            f"{path} exists and is {stat.filemode(mode)}: only its owner may open it, and guests run as another user.",
            f"sudo chgrp {group} {path}\nsudo chmod 660 {path}",
        )
    return Check(name, "ok", f"{path} can be opened{' by its group' if shared else ''}.")


def check_processor(device: str, without: str, *, path: str = "/proc/cpuinfo", machine: str = "") -> Check:
    """The trap of nested virtualization: the device may be there while the processor lacks what it needs.

    Args:
        device: that goes with it, such as /dev/kvm.
        without: a sentence on how guests do without it.
        path: of what tells the processor's flags.
        machine: the architecture, where it is not this machine's.
    """
    flags = processor_flags(path, machine)
    if flags is None:
        return Check("Processor", "skip", "This one does not tell whether it has hardware virtualization.")
    if found := [known for flag, known in VIRTUALIZATION.items() if flag in flags]:
        return Check("Processor", "ok", f"It has {found[0]}.")
    trap = f" {device} exists all the same, but is of no use." if os.path.exists(device) else ""
    flags_missing = " nor ".join(f"{known} ({flag})" for flag, known in VIRTUALIZATION.items())
    return Check(
        "Processor",
        "warn",
        f"It shows neither {flags_missing}.{trap} {without}",
        "On a real machine, switch it on in the firmware. In a guest, let its host pass it on (nested virtualization).",
    )


def check_programs(name: str, programs: Iterable[tuple[str, ...]], debian: str, fedora: str) -> Check:
    """Whether programs are installed.

    Args:
        name: of the check.
        programs: each with what may stand in for it, by name on PATH or by path.
        debian, fedora: the packages that hold them.
    """
    found = {names: next(filter(None, map(shutil.which, names)), None) for names in programs}
    missing = [names[0] for names, path in found.items() if path is None]
    if missing:
        return Check(name, "fail", f"Not found on PATH: {', '.join(missing)}.", install(debian, fedora))
    return Check(name, "ok", f"Installed: {', '.join(map(str, found.values()))}.")


def native_emulator(machine: str = "") -> str:
    """The name of QEMU's program for guests of this machine's architecture, or of another one."""
    architecture = (machine or platform.machine()).lower()
    names = {"amd64": "x86_64", "i686": "i386", "arm64": "aarch64", "armv7l": "arm", "ppc64le": "ppc64"}
    return f"qemu-system-{names.get(architecture, architecture)}"


# With an open connection.


def check_networks(hypervisor: LibvirtHypervisor) -> Iterator[Check]:
    """Whether the host's networks that VMs get by default are started. Those that the library makes need nobody."""
    wirings = [(type, wiring) for type, ways in hypervisor.ways.items() for wiring in ways]
    usual = {wiring.default: type for type, wiring in wirings if wiring.source == "network" and not wiring.own}
    for name, type in usual.items():
        if name is not None:
            yield _check_network(hypervisor, name, type)


def _check_network(hypervisor: LibvirtHypervisor, name: str, type: str) -> Check:
    title, uri = f"Network {name}", quote(str(hypervisor.uri))
    try:
        active = hypervisor.host_networks.is_active(name)
    except (HypervisorError, UnsupportedError) as error:
        return Check(title, "skip", error.message, error.hint)
    if active is None:
        return Check(
            title,
            "warn",
            f"{hypervisor.uri} has no such network, which VMs on {type} use. This makes it when a VM needs it:",
            f"virtuoso -c {uri} start NAME --start-networks",
        )
    if not active:
        advice = f"virsh -c {uri} net-start {quote(name)}\nvirsh -c {uri} net-autostart {quote(name)}"
        return Check(title, "warn", f"It is not started, and VMs on {type} use it.", advice)
    return Check(title, "ok", f"It is started; VMs on {type} use it.")


def check_stopped(hypervisor: LibvirtHypervisor) -> Iterator[Check]:
    """VMs that stand still because of a disk: to their guests and to their states that looks like a pause."""
    binding, native = libvirt(), hypervisor.connection.native
    try:
        paused = hypervisor.connection.call(
            "list the VMs that stand still", native.listAllDomains, binding.VIR_CONNECT_LIST_DOMAINS_PAUSED
        )
        for domain in paused:
            vm = hypervisor._vm(domain)
            if stopped_by_a_disk(vm._call("look at", domain.state)):
                full, why = vm._disk_trouble()
                room = "Make room there, then type" if full else "Look at that storage, then type"
                advice = f"virtuoso -c {quote(str(hypervisor.uri))} resume {quote(vm.name)}"
                yield Check(f"VM {vm.name}", "fail", f"It stands still: {why}. {room}:", advice)
    except (HypervisorError, UnsupportedError, VMNotFoundError):
        return  # not every driver tells, or it went while we looked


def check_image(hypervisor: LibvirtHypervisor, path: str) -> Check:
    """Whether the user who runs the guests gets to the image, and what is in it."""
    name = f"Image {path}"
    if not hypervisor.probes_images:
        return Check(name, "skip", f"The {hypervisor.name} driver opens no images.")
    if not hypervisor.local:
        return Check(name, "skip", f"Images of {hypervisor.uri} are on its host: look there.")
    path, me = os.path.abspath(path), user_name()
    try:
        os.stat(path)
    except PermissionError:
        command = f"sudo virtuoso -c {quote(str(hypervisor.uri))} doctor --image {quote(path)}"
        return Check(name, "skip", f"{me} may not look at it.", command)
    except OSError:
        pass  # told below, better
    try:
        images.check_image(path)
    except ImageError as error:
        return Check(name, "fail", error.message, error.hint)
    who = hypervisor.image_user()
    blocked = images.unreachable_parent(path, who.uid, who.gids)
    if blocked is not None:
        return Check(
            name,
            "fail",
            f"The user {who.name}, who runs the guests, may not enter the directory {blocked}.",
            f"sudo setfacl -m u:{who.name}:x {quote(blocked)}",
        )
    if who.uid == os.geteuid() and not os.access(path, os.R_OK | os.W_OK):
        advice = f"sudo setfacl -m u:{me}:rw {quote(path)}"
        return Check(name, "fail", f"{me}, who runs the guests, may not read and write it.", advice)
    reached = f"The user {who.name}, who runs the guests, gets to it"
    try:
        return Check(name, "ok", f"{reached}; its format is {hypervisor.image_format(path)}.")
    except ImageFormatError as error:
        return Check(name, "warn", f"{reached}. {error.message}", error.hint)
