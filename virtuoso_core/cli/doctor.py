"""The checks of `virtuoso doctor`: each a small function that returns what is so, in plain words, and what to type."""

from __future__ import annotations

import getpass
import importlib.util
import os
import platform
import pwd
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..errors import DriverError, VirtuosoError
from ..uri import URI

if TYPE_CHECKING:
    from ..hypervisor import Hypervisor
    from ..plugins import Plugin
    from .app import Settings

Status = Literal["ok", "warn", "fail", "skip"]


class Check(NamedTuple):
    """What one check found; the advice holds lines to type or do."""

    name: str
    status: Status
    explanation: str
    advice: str = ""


def examine(settings: Settings, image: str | None = None) -> Iterator[Check]:
    """Every check that matters for the hypervisor named, or for those that ``connect()`` would try."""
    from ..plugins import default_registry

    wanted = settings.wanted
    targets = [URI.parse(uri) for uri in ([wanted] if wanted is not None else default_registry().default_uris())]
    yield check_python()
    for plugin in default_registry().plugins:
        yield check_driver(plugin)
    yield check_libvirt(_need_libvirt(targets, settings.driver))
    for scheme in dict.fromkeys(target.scheme for target in targets if target.is_local):
        for check in _LOCAL.get(scheme, ()):
            yield check()
    for target in targets:
        if target.is_local and target.scheme in _DAEMONS:
            yield check_daemon(target)
    yield from check_connections(targets, settings)
    if image is not None:
        system = any(target.path == "/system" for target in targets)
        yield check_image(image, _QEMU_USERS if system and "qemu" in {target.scheme for target in targets} else ())


# The installation.


def check_python() -> Check:
    """Which Python and which Virtuoso this is; that it runs at all means that they fit."""
    from .. import __version__

    return Check("Python", "ok", f"Python {platform.python_version()} in {sys.prefix}, virtuoso-core {__version__}.")


def check_driver(plugin: Plugin) -> Check:
    """A driver that was blocked on purpose is not amiss; one that does not load is."""
    name = f"Driver {plugin.name}"
    if plugin.error is None:
        schemes = ", ".join(f"{scheme}://" for scheme in plugin.schemes)
        return Check(name, "ok", f"{plugin.distribution} {plugin.version}{' serves ' + schemes if schemes else ''}.")
    status: Status = "warn" if plugin.status in ("disabled", "duplicate") else "fail"
    return Check(name, status, plugin.error.message, plugin.error.hint)


def check_libvirt(needed: bool) -> Check:
    """Whether Python finds libvirt's binding; nothing is loaded."""
    if importlib.util.find_spec("libvirt") is not None:
        return Check("libvirt binding", "ok", "The Python package libvirt is installed.")
    if not needed:
        return Check("libvirt binding", "skip", "It is not installed, and no driver asked about needs it.")
    return Check(
        "libvirt binding",
        "fail",
        "The Python package libvirt is not installed, and the driver needs it. It is built from source, which takes "
        "libvirt's headers, pkg-config and a C compiler.",
        _install("libvirt-dev pkg-config gcc python3-dev", "libvirt-devel pkgconf gcc python3-devel")
        + "\npip install 'virtuoso-core[libvirt]'",
    )


def _need_libvirt(targets: Iterable[URI], driver: str | None) -> bool:
    from ..plugins import default_registry

    for target in targets:
        try:
            found = default_registry().driver_for(target.scheme, driver)
        except DriverError:
            continue
        if any(cls.__module__.startswith("virtuoso_core.libvirt_base") for cls in found.__mro__):
            return True
    return False


# This machine.


def check_kvm_device(path: str = "/dev/kvm") -> Check:
    """Whether the device of hardware virtualization is there and may be opened."""
    slow = "Guests run in software emulation, many times slower."
    if not os.path.exists(path):
        return Check(
            "KVM",
            "warn",
            f"{path} does not exist: the kernel has no hardware virtualization. {slow}",
            "Switch on VT-x or AMD-V in the firmware, or nested virtualization where this machine is a guest itself.\n"
            "Then: sudo modprobe kvm_intel || sudo modprobe kvm_amd",
        )
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        return Check(
            "KVM",
            "warn",
            f"{path} exists and {_user()} may not open it, which qemu:///session needs. {slow}",
            f"sudo adduser {_user()} kvm\nthen sign out and in again",
        )
    except OSError as error:
        return Check(
            "KVM", "warn", f"{path} exists and does not answer: {error.strerror}. {slow}", "sudo dmesg | grep -i kvm"
        )
    return Check("KVM", "ok", f"{path} can be opened.")


def check_cpu(path: str = "/proc/cpuinfo", machine: str | None = None, device: str = "/dev/kvm") -> Check:
    """The trap of nested virtualization: the device may be there while the processor lacks what it needs."""
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64", "i686", "i386"):
        return Check("Processor", "skip", "Only x86 processors tell whether they have hardware virtualization.")
    try:
        with open(path, encoding="ascii", errors="replace") as info:
            flags = {word for line in info if line.startswith("flags") for word in line.split()}
    except OSError as error:
        return Check("Processor", "skip", f"{path} cannot be read: {error.strerror}.")
    if flags & {"vmx", "svm"}:
        return Check("Processor", "ok", f"It has {'VT-x' if 'vmx' in flags else 'AMD-V'}.")
    trap = f" {device} exists all the same, but is of no use." if os.path.exists(device) else ""
    return Check(
        "Processor",
        "warn",
        f"It shows neither VT-x (vmx) nor AMD-V (svm).{trap} Guests run in software emulation, many times slower.",
        "On a real machine, switch it on in the firmware. In a guest, let its host pass it on (nested virtualization).",
    )


_ARCHITECTURES = {"amd64": "x86_64", "i686": "i386", "arm64": "aarch64", "armv7l": "arm", "ppc64le": "ppc64"}


def check_qemu(machine: str | None = None) -> Check:
    """Whether the programs that run the guests and read their images are installed."""
    architecture = machine or platform.machine()
    emulator = f"qemu-system-{_ARCHITECTURES.get(architecture, architecture)}"
    found = shutil.which(emulator) or next(filter(os.path.exists, ("/usr/libexec/qemu-kvm",)), None)
    missing = [] if found else [emulator]
    if shutil.which("qemu-img") is None:
        missing.append("qemu-img")
    if not missing:
        return Check("QEMU", "ok", f"{found} and qemu-img are installed.")
    package = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm"}.get(architecture, "qemu-system")
    return Check(
        "QEMU",
        "fail",
        f"Not found on PATH: {', '.join(missing)}.",
        _install(f"{package} qemu-utils", "qemu-kvm qemu-img"),
    )


_LOCAL: Mapping[str, tuple[Callable[[], Check], ...]] = {"qemu": (check_kvm_device, check_cpu, check_qemu)}
"""What this machine must have for a scheme when it is the hypervisor itself."""


# The daemon.

_DAEMONS = {
    "qemu": ("virtqemud", "libvirt-daemon-system", "libvirt-daemon-kvm"),
    "xen": ("virtxend", "libvirt-daemon-system libvirt-daemon-driver-xen", "libvirt-daemon-xen"),
    "vbox": ("virtvboxd", "libvirt-daemon libvirt-daemon-driver-vbox", "libvirt-daemon-driver-vbox"),
}
"""libvirt's daemon for the scheme, where there is one for each, and what to install on Debian and on Fedora."""


def check_daemon(target: URI, folder: str | None = None) -> Check:
    """Whether somebody listens behind one of the daemon's sockets, and whether this user may talk to it."""
    daemon, debian, fedora = _DAEMONS[target.scheme]
    name, own = f"Daemon for {target}", target.path == "/session" and os.geteuid() != 0
    if folder is None:
        runtime = os.environ.get("XDG_RUNTIME_DIR") or os.path.expanduser("~/.cache")
        folder = f"{runtime}/libvirt" if own else "/run/libvirt"
    sockets = [f"{folder}/{daemon}-sock", f"{folder}/libvirt-sock"]
    problems = {path: problem for path in sockets if (problem := _socket_problem(path))}
    for path in sockets:
        if path not in problems:
            return Check(name, "ok", f"It listens on {path}.")
    programs = "/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", "")
    installed = next((program for program in (daemon, "libvirtd") if shutil.which(program, path=programs)), None)
    if installed is None:
        return Check(name, "fail", f"Neither {daemon} nor libvirtd is installed.", _install(debian, fedora))
    if "refused" in problems.values():
        stale = next(path for path, problem in problems.items() if problem == "refused")
        return Check(
            name,
            "fail",
            f"{stale} is left over from a daemon that does not run any more.",
            "it is started anew by the next connection" if own else _start_daemon(installed),
        )
    if "denied" in problems.values():
        return Check(
            name,
            "fail",
            f"It listens, and {_user()} is not allowed to talk to it.",
            f"sudo adduser {_user()} libvirt\nthen sign out and in again; or use your own: {target.scheme}:///session",
        )
    if own:
        return Check(name, "ok", f"{installed} is installed; the connection starts it.")
    return Check(
        name, "fail", f"{installed} does not run: neither {' nor '.join(sockets)} exists.", _start_daemon(installed)
    )


def _socket_problem(path: str) -> Literal["", "missing", "refused", "denied"]:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(2)
            client.connect(path)
    except PermissionError:
        return "denied"
    except ConnectionRefusedError:
        return "refused"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "refused"
    return ""


def _start_daemon(program: str) -> str:
    if os.path.isdir("/run/systemd/system"):
        return f"sudo systemctl enable --now {program}.socket"
    return f"sudo virtlogd --daemon; sudo {program} --daemon"


# The connection.


def check_connections(targets: Iterable[URI], settings: Settings) -> Iterator[Check]:
    """Try each; of those that ``connect()`` would try by itself, one that works is enough."""
    results = [(target, *_try(target, settings)) for target in targets]
    if not results:
        yield Check(
            "Connection",
            "fail",
            "No installed driver proposes a hypervisor to connect to.",
            "Install one: pip install virtuoso-kvm\nor name one: virtuoso -c qemu+ssh://host/system doctor",
        )
    works = any(error is None for _, _, error in results)
    for target, found, error in results:
        name = f"Connection to {target}"
        if error is None:
            yield found[0]
            yield from found[1:]
        elif works:
            yield Check(name, "warn", f"{error.message} (Another one works.)", error.hint)
        else:
            yield Check(name, "fail", error.message, error.hint)


def _try(target: URI, settings: Settings) -> tuple[list[Check], VirtuosoError | None]:
    from dataclasses import replace

    try:
        with replace(settings, uri=target.full).connect() as hypervisor:
            count = len(hypervisor.summaries())
            ok = Check(f"Connection to {target}", "ok", f"{hypervisor.version}; {count} VM{'s' * (count != 1)}.")
            return [ok, *_own_checks(hypervisor)], None
    except VirtuosoError as error:
        return [], error


def _own_checks(hypervisor: Hypervisor) -> list[Check]:
    """What the driver itself knows to look at, such as the host's usual network."""
    ask = getattr(hypervisor, "_doctor", None)
    return [Check(*found) for found in ask()] if callable(ask) else []


# A disk image.

_QEMU_USERS = ("libvirt-qemu", "qemu")
"""The user that a system-wide QEMU runs as: on Debian, on Fedora."""


def check_image(path: str, users: Iterable[str] = ()) -> Check:
    """Whether the user that runs the guests gets to the image.

    Args:
        path: of the image.
        users: names, of which the first that exists counts; none stands for the user who asks.
    """
    name, path = f"Image {path}", os.path.abspath(path)
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        return Check(name, "skip", f"{_user()} may not look at it.", f"sudo virtuoso doctor --image {path}")
    except OSError as error:
        return Check(name, "fail", f"{error.strerror}.", f"ls -l {os.path.dirname(path)}")
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        return Check(name, "fail", "It is neither a file nor a disk.")
    account = next((found for user in users if (found := _account(user))), None)
    if account is None:
        if os.access(path, os.R_OK | os.W_OK):
            return Check(name, "ok", f"{_user()} may read and write it.")
        return Check(name, "fail", f"{_user()} may not read and write it.", f"sudo setfacl -m u:{_user()}:rw {path}")
    return _reached_by(name, path, account)


def _reached_by(name: str, path: str, account: pwd.struct_passwd) -> Check:
    try:
        from ..libvirt_base.images import unreachable_parent
    except ImportError:
        return Check(name, "skip", "Looking at permissions needs virtuoso-core[libvirt].")
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    blocked = unreachable_parent(path, account.pw_uid, groups)
    if blocked is None:
        return Check(name, "ok", f"The user {account.pw_name}, which runs the guests, gets to it.")
    return Check(
        name,
        "fail",
        f"The user {account.pw_name}, which runs the guests, may not enter the directory {blocked}.",
        f"sudo setfacl -m u:{account.pw_name}:x {blocked}",
    )


def _account(user: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        return None


# Words.


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _install(debian: str, fedora: str) -> str:
    """The line for this system's package manager; both where it is neither."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    family = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    lines = {"debian": f"sudo apt install {debian}", "fedora": f"sudo dnf install {fedora}"}
    fits = [line for name, line in lines.items() if name in family]
    return "\n".join(fits or lines.values())
