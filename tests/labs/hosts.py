"""Private libvirt hosts for tests: making, using and ending them, on top of the scripts here."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from types import TracebackType
from typing import Self

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
HOST_SCRIPT = HERE / "host.sh"
TWO_HOSTS_SCRIPT = HERE / "two-hosts.sh"
GUEST_SCRIPT = REPOSITORY / "tools" / "guest-image"
CLOUD_SCRIPT = REPOSITORY / "tools" / "cloud-image"
DEFAULT_NETWORK = Path("/usr/share/libvirt/networks/default.xml")
DNSMASQ_NAMESPACE = "http://libvirt.org/schemas/network/dnsmasq/1.0"


class LabError(RuntimeError):
    """A lab could not be made, or a command that sets it up failed."""


def _call(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; past the timeout end it with all its children."""
    words = [str(word) for word in argv]
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            # A grandchild that lives on would hold the pipes open, and leaving this block would wait for it.
            os.killpg(process.pid, SIGKILL)
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def _must(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command that has to succeed and return what it printed."""
    done = _call(argv, timeout=timeout, env=env)
    if done.returncode:
        raise LabError(f"{shlex.join(done.args)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def missing_reason() -> str | None:
    """Say why private hosts cannot be made on this machine, or return None when they can."""
    try:
        done = _call([HOST_SCRIPT, "check"], timeout=30)
    except OSError as error:
        return f"the lab scripts do not run: {error}"
    return (done.stdout or done.stderr).strip() if done.returncode else None


def guest_image() -> Path:
    """Return the demo guest's disk, which boots by itself; the first call builds it."""
    return Path(_must([GUEST_SCRIPT], timeout=500))


def no_cloud_image() -> str | None:
    """Say why the cloud image is not there and cannot be built, or return None."""
    done = _call([CLOUD_SCRIPT, "check"], timeout=30)
    return (done.stdout or done.stderr).strip() if done.returncode else None


def cloud_image() -> Path:
    """Return the disk of a Debian with cloud-init, which boots by itself; the first call builds it: minutes."""
    return Path(_must([CLOUD_SCRIPT], timeout=900))


class PrivateHost:
    """One private host: a libvirtd of its own, which this process reaches through a socket.

    Everything that runs on it ends with `down`. Ordinary users on the host can reach this Python, the
    repository and the directories in `expose`, even where they lie below a private directory such as /root.
    """

    def __init__(
        self, name: str, *, expose: Iterable[Path] = (), kvm: bool = False, libvirtd: Sequence[str] = ()
    ) -> None:
        self.name = name
        self._libvirtd = libvirtd
        self.directory = Path(_must([HOST_SCRIPT, "dir", name], timeout=10))
        self._env = {"LAB_EXPOSE": _exposed(expose), "LAB_KVM": "yes" if kvm else "no"}

    def __enter__(self) -> Self:
        """Make the host and start its libvirtd."""
        try:
            self.up()
            self.start_libvirtd()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the host."""
        self.down()

    @property
    def uri(self) -> str:
        """The URI of the host's libvirtd for a process outside, such as the one that runs the tests."""
        return f"qemu:///system?socket={self.directory}/run/libvirt/libvirt-sock"

    @property
    def images(self) -> Path:
        """A directory for disk images that QEMU may use, under the same path inside and outside."""
        return self.directory / "images"

    @property
    def logs(self) -> Path:
        """The host's /var/log/libvirt, seen from outside; a guest's serial log in its qemu/ is read here."""
        return self.directory / "var" / "log"

    def up(self) -> None:
        """Make the host, without a libvirtd yet."""
        _must([HOST_SCRIPT, "up", self.name], timeout=60, env=self._env)

    def start_libvirtd(self) -> None:
        """Start libvirtd, for the first time or again, and wait until it can be used."""
        _must([HOST_SCRIPT, "libvirtd", self.name, *self._libvirtd], timeout=120)

    def kill_libvirtd(self, signal: Signals = SIGKILL) -> None:
        """End libvirtd and wait until it has ended; guests live on."""
        self._signal(signal)

    def freeze_libvirtd(self) -> None:
        """Stop libvirtd where it is: connections stay open and nothing answers."""
        self._signal(SIGSTOP)

    def thaw_libvirtd(self) -> None:
        """Let a frozen libvirtd go on."""
        self._signal(SIGCONT)

    def start_default_network(self, *, quick: bool = False) -> None:
        """Define and start libvirt's own network "default" (NAT, DHCP), as its Debian package ships it.

        With `quick` its DHCP server hands out addresses without a ping first, which saves each guest 3 s.
        """
        xml = DEFAULT_NETWORK.read_text()
        if quick:
            xml = xml.replace("<network>", f"<network xmlns:dnsmasq='{DNSMASQ_NAMESPACE}'>").replace(
                "</network>",
                "<dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options></network>",
            )
        definition = self.directory / "default-network.xml"
        definition.write_text(xml)
        virsh: list[str | Path] = [HOST_SCRIPT, "exec", self.name, "virsh", "-q", "-c", "qemu:///system"]
        _must([*virsh, "net-define", definition], timeout=60)
        _must([*virsh, "net-start", "default"], timeout=60)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        user: bool = False,
        timeout: float = 60,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host, as root or as the ordinary user labuser, and return how it ended."""
        action = "exec-user" if user else "exec"
        settings = [f"{name}={value}" for name, value in (env or {}).items()]
        return _call([HOST_SCRIPT, action, self.name, "env", *settings, *argv], timeout=timeout, input=input)

    def down(self) -> None:
        """End all that runs on the host and remove its files; a host that is not there is no error."""
        _must([HOST_SCRIPT, "down", self.name], timeout=60)

    def _signal(self, number: Signals) -> None:
        _must([HOST_SCRIPT, "signal", self.name, number.name], timeout=60)


class TwoHosts:
    """Two private hosts that reach each other by TCP and SSH, for remote connections and migration."""

    # beta, as seen from alpha
    tcp_uri = "qemu+tcp://beta/system"
    ssh_uri = "qemu+ssh://root@beta/system?no_tty=1"

    @staticmethod
    def missing_reason() -> str | None:
        """Say why two hosts cannot be made here although one can, or return None."""
        done = _call([TWO_HOSTS_SCRIPT, "check"], timeout=120)
        return (done.stdout or done.stderr).strip() if done.returncode else None

    def __init__(self, *, expose: Iterable[Path] = ()) -> None:
        self._expose = _exposed(expose)
        self.alpha = PrivateHost("alpha", libvirtd=["--listen"])
        self.beta = PrivateHost("beta", libvirtd=["--listen"])

    def __enter__(self) -> Self:
        """Make both hosts, start their daemons and join them."""
        try:
            _must([TWO_HOSTS_SCRIPT, "up"], timeout=240, env={"LAB_EXPOSE": self._expose})
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End both hosts."""
        self.down()

    def down(self) -> None:
        """End both hosts and remove their files."""
        _must([TWO_HOSTS_SCRIPT, "down"], timeout=120)


def _exposed(more: Iterable[Path]) -> str:
    """Return, as LAB_EXPOSE wants it, what an ordinary user needs to run this Python, and more."""
    directories = [Path(sys.prefix), Path(sys.base_prefix), REPOSITORY, *more]
    return ":".join(dict.fromkeys(str(directory.resolve()) for directory in directories))
