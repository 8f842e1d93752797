"""GuestCalls: what a running guest can be asked: its addresses, its screen, its console, commands inside it."""

from __future__ import annotations

from collections.abc import Sequence

from ..console import Console
from ..facts import Address, Display, RunResult, Screenshot
from ..spec import Feature, State
from .base import VMBase


class GuestCalls(VMBase):
    """Calls that need a running guest."""

    def addresses(self) -> tuple[Address, ...]:
        """The IP addresses that the guest is known to have now, without link-local ones; empty while none is known.

        Raises:
            UnsupportedError: this hypervisor cannot tell.
            InvalidStateError: the VM is not running.
        """
        self._hypervisor._require(Feature.ADDRESSES, "tell the addresses of guests")
        self._require_saved("has no address")
        for report in self._address_reports():
            if found := tuple(address for address in report.addresses if not _link_local(address.ip)):
                return found
        return ()

    def wait_for_address(self, timeout: float = 120) -> Address:
        """Wait until the guest has an address, IPv4 before IPv6.

        Args:
            timeout: seconds.

        Raises:
            AddressTimeoutError: none came in time; the message tells what each source said last, and what to do.
            InvalidStateError: the VM is not running, or stopped meanwhile.
            UnsupportedError
        """
        raise NotImplementedError

    def wait_for(self, port: int = 22, timeout: float = 120) -> Address:
        """Wait until something in the guest listens on a TCP port, as far as this machine can reach the guest.

        Args:
            port: from 1 to 65535.
            timeout: seconds, the wait for an address included.

        Returns:
            The address that answered.

        Raises:
            WaitTimeoutError: nothing answered in time; the message tells what was tried and what came of it.
            InvalidStateError, UnsupportedError
        """
        raise NotImplementedError

    def wait_until(self, state: State | str, timeout: float = 120) -> None:
        """Wait until the VM is in a state, such as "stopped".

        Args:
            state: a State, or its name.
            timeout: seconds.

        Raises:
            WaitTimeoutError: it did not come about in time; the message tells the last state.
            InvalidValueError: no state of that name.
        """
        raise NotImplementedError

    def run(self, command: Sequence[str], *, input: bytes | str = b"", timeout: float = 60) -> RunResult:
        """Run a command inside the guest, by its agent, and wait for its end.

        Args:
            command: the program and its arguments; no shell is involved.
            input: what it reads.
            timeout: seconds; a command that takes longer is ended where the agent can.

        Returns:
            Exit code and output, whatever the exit code.

        Raises:
            GuestAgentError: no agent answers, or it refuses; the hint tells what to install.
            WaitTimeoutError: the command did not end in time.
            InvalidStateError: the VM is not running.
            UnsupportedError
        """
        raise NotImplementedError

    def screenshot(self) -> Screenshot:
        """What the guest's screen shows, as the bytes of a PNG file.

        Raises:
            UnsupportedError: this hypervisor cannot, or the VM has no screen.
            InvalidStateError: the VM is not running.
        """
        self._hypervisor._require(Feature.SCREENSHOT, "take screenshots")
        self._require_saved("has no screen")
        return Screenshot(self._screenshot())

    def console(self) -> Console:
        """The guest's serial console, to read and to write; close it, or use it in a ``with`` block.

        Raises:
            InvalidStateError: the VM is not running; it has no serial console; another program has it.
            UnsupportedError
        """
        raise NotImplementedError

    @property
    def display(self) -> Display | None:
        """Where the VM's screen can be seen: protocol, address, port; None when it has no screen.

        Raises:
            InvalidStateError: the VM is not running.
            UnsupportedError
        """
        raise NotImplementedError


def _link_local(ip: str) -> bool:
    import ipaddress

    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    return address.is_link_local or address.is_loopback
