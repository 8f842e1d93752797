"""GuestCalls: what a running guest can be asked: its addresses, its screen, its console, commands inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..console import Console
from ..errors import AddressTimeoutError, InvalidStateError, InvalidValueError, WaitTimeoutError
from ..facts import Address, AddressReport, Display, RunResult, Screenshot
from ..spec import Feature, State
from ..waiting import Wait
from .base import OFF, VMBase

_ATTEMPT = 3.0
"""Seconds that a TCP connection to one address may take to come about."""


class GuestCalls(VMBase):
    """Calls that need a running guest."""

    def addresses(self) -> tuple[Address, ...]:
        """The IP addresses that the guest is known to have now, without link-local ones; empty while none is known.

        Raises:
            UnsupportedError: this hypervisor cannot tell.
            InvalidStateError: the VM is not running.
        """
        self._require_addresses()
        return self._ask_addresses()[0]

    def wait_for_address(self, timeout: float = 120) -> Address:
        """Wait until the guest has an address, IPv4 before IPv6.

        It may be known a moment before the guest answers at it: see ``wait_for()``.

        Args:
            timeout: seconds. An agent in the guest that hangs may take 5 more.

        Raises:
            AddressTimeoutError: none came in time; the message tells what each source said last, and what to do.
            InvalidStateError: the VM is not running, or stopped meanwhile, or has no network card.
            UnsupportedError
        """
        wait = Wait(timeout)
        self._require_addresses()
        self._require_card()
        while True:
            found, reports = self._ask_addresses()
            if found:
                return found[0]
            self._require_still_on("an address", wait)
            if not wait.pause():
                raise self._no_address(wait, reports)

    def wait_for(self, port: int = 22, timeout: float = 120) -> Address:
        """Wait until something in the guest listens on a TCP port, as far as this machine can reach the guest.

        Args:
            port: from 1 to 65535.
            timeout: seconds, the wait for an address included.

        Returns:
            The address that answered.

        Raises:
            AddressTimeoutError: the guest got no address in time.
            WaitTimeoutError: nothing answered in time; the message tells what was tried and what came of it.
            InvalidStateError, UnsupportedError: as ``wait_for_address()``.
        """
        if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
            raise InvalidValueError(f"{port!r} is not a TCP port.", hint="It is an int from 1 to 65535.")
        wait = Wait(timeout)
        self._require_addresses()
        self._require_card()
        tried: dict[str, str] = {}
        while True:
            found, reports = self._ask_addresses()
            for address in found:
                refusal = _connect(address.ip, port, max(0.1, min(_ATTEMPT, wait.left)))
                if refusal is None:
                    return address
                tried[address.ip] = f"{_endpoint(address.ip, port)} {refusal}, last after {wait.elapsed:.0f} s"
            self._require_still_on(f"port {port}", wait)
            if not wait.pause():
                raise self._no_answer(wait, port, tried) if tried else self._no_address(wait, reports)

    def wait_until(self, state: State | str, timeout: float = 120) -> None:
        """Wait until the VM is in a state, such as "stopped".

        Args:
            state: a State, or its name.
            timeout: seconds.

        Raises:
            WaitTimeoutError: it did not come about in time; the message tells the last state.
            InvalidValueError: no state of that name, or "new", which no saved VM is in.
            InvalidStateError: the VM was never saved.
            VMNotFoundError: it was destroyed meanwhile.

        Example:
            >>> from virtuoso_core import connect
            >>> vm = connect("memory:///example").new_vm()
            >>> vm.name = "web"
            >>> vm.save()
            <SaveResult.APPLIED: 'applied'>
            >>> vm.wait_until("stopped", timeout=1)
        """
        names = [each.value for each in State if each is not State.NEW]
        if state not in names:
            raise InvalidValueError(f"{state!r} is no state to wait for.", hint=f"These are: {', '.join(names)}.")
        wait = Wait(timeout, first=0.05, longest=0.5)
        self._require_saved(f"cannot become {state}")
        while (last := self._get_state()) != state:
            if not wait.pause():
                raise WaitTimeoutError(
                    f"The VM {self._title} on {self._hypervisor.uri} was not {state} within {wait.timeout:g} s; it is "
                    f"{last}.",
                    phase=f"state {state}",
                    elapsed=wait.elapsed,
                    evidence=f"it is {last}",
                    **self._where,
                )

    def run(self, command: Sequence[str], *, input: bytes | str = b"", timeout: float = 60) -> RunResult:
        """Run a command inside the guest, by its agent, and wait for its end.

        An agent that is not up yet, in a guest that boots, is waited for.

        Args:
            command: the program and its arguments; no shell is involved.
            input: what it reads; at most some 96 KiB.
            timeout: seconds, the wait for the agent included; a command that takes longer is killed, where the agent
                can. What it started itself goes on.

        Returns:
            Exit code and output, whatever the exit code.

        Raises:
            GuestAgentError: no agent answers, or it refuses, or the command printed more than it can hand out, some
                3 MiB; the hint tells what to do.
            WaitTimeoutError: the command did not end in time.
            InvalidStateError: the VM is not running, or stopped meanwhile.
            InvalidValueError: no command.
            UnsupportedError
        """
        self._hypervisor._require(Feature.RUN, "run commands in guests")
        words, stdin = _words(command), _bytes(input)
        Wait(timeout)
        self._require_saved("runs nothing", writing="run a command in")
        self._require_on("run a command in", paused=False)
        return self._run_in_guest(words, stdin, timeout)

    def screenshot(self) -> Screenshot:
        """What the guest's screen shows, as the bytes of a PNG file.

        Raises:
            UnsupportedError: this hypervisor cannot, or the VM has no screen.
            InvalidStateError: the VM is not running.
        """
        self._hypervisor._require(Feature.SCREENSHOT, "take screenshots")
        self._require_saved("has no screen")
        self._require_on("take a screenshot of")
        return Screenshot(self._screenshot())

    def console(self, *, force: bool = False) -> Console:
        """The guest's serial console, to read and to write; close it, or use it in a ``with`` block.

        Args:
            force: take it away from whoever has it.

        Raises:
            InvalidStateError: the VM is not running; it has no serial console; another program has it.
            UnsupportedError
        """
        self._hypervisor._require(Feature.CONSOLE, "open consoles")
        self._require_saved("has no console", writing="open the console of")
        self._require_on("open the console of")
        return self._console(force)

    @property
    def display(self) -> Display | None:
        """Where the VM's screen can be seen: protocol, address, port; None when it has no screen.

        Raises:
            InvalidStateError: the VM is not running.
            UnsupportedError
        """
        self._hypervisor._require(Feature.DISPLAY, "tell where screens can be seen")
        self._require_saved("has no screen")
        self._require_on("tell where to see the screen of")
        return next(iter(self._displays()), None)

    # Checks and words.

    def _require_on(self, doing: str, *, paused: bool = True) -> None:
        """Refuse when nothing of it runs, or, without ``paused``, when the guest stands still."""
        state = self._get_state()
        if state in (*OFF, State.CRASHED) or (state is State.PAUSED and not paused):
            raise InvalidStateError(
                f"Cannot {doing} the VM {self._title} on {self._hypervisor.uri}: it is {state}, not running.",
                hint="Let it go on first: vm.resume()." if state is State.PAUSED else "Start it first: vm.start().",
                **self._where,
            )

    def _require_addresses(self) -> None:
        self._hypervisor._require(Feature.ADDRESSES, "tell the addresses of guests")
        self._require_saved("has no address")
        self._require_on("tell the addresses of")

    def _ask_addresses(self) -> tuple[tuple[Address, ...], list[AddressReport]]:
        """What the first source that knows any answers, IPv4 first; and what each said that was asked."""
        reports: list[AddressReport] = []
        for report in self._address_reports():
            reports.append(report)
            if found := [address for address in report.addresses if not _link_local(address.ip)]:
                return tuple(sorted(found, key=lambda address: ":" in address.ip)), reports
        return (), reports

    def _require_card(self) -> None:
        if not self._read().networks and not self._ask_addresses()[0]:  # one may be plugged in, and not saved
            raise InvalidStateError(
                f"The VM {self._title} on {self._hypervisor.uri} gets no address: it has no network card.",
                hint='Give it one: vm.network("nat"); vm.save(); then stop and start it.',
                **self._where,
            )

    def _require_still_on(self, what: str, wait: Wait) -> None:
        """Refuse to wait on for what cannot come any more."""
        state = self._get_state()
        if state in (*OFF, State.CRASHED):
            raise InvalidStateError(
                f"The VM {self._title} on {self._hypervisor.uri} stopped while waiting for {what}, after "
                f"{wait.elapsed:.0f} s; it is {state}.",
                hint="See what it printed: vm.start(), then vm.console() or vm.screenshot().",
                **self._where,
            )

    def _no_address(self, wait: Wait, reports: Sequence[AddressReport]) -> AddressTimeoutError:
        evidence = "; ".join(f"{report.source}: {_said(report)}" for report in reports) or "nobody could be asked"
        if self._get_state() is State.PAUSED:
            evidence += "; it is paused"
        hints = dict.fromkeys(report.hint for report in reports if report.hint)
        return AddressTimeoutError(
            f"The guest of {self._title} on {self._hypervisor.uri} got no address within {wait.timeout:g} s. "
            f"{evidence}.",
            phase="address",
            elapsed=wait.elapsed,
            evidence=evidence,
            hint=f"It may still be booting: look at its screen or console, or wait longer. {' '.join(hints)}".rstrip()
            if hints
            else "It may still be booting: wait longer. Or does it not ask for one by DHCP, or its network not answer?",
            **self._where,
        )

    def _no_answer(self, wait: Wait, port: int, tried: Mapping[str, str]) -> WaitTimeoutError:
        evidence = "; ".join(tried.values())
        return WaitTimeoutError(
            f"Nothing in the guest of {self._title} on {self._hypervisor.uri} answered on TCP port {port} within "
            f"{wait.timeout:g} s: {evidence}.",
            phase=f"port {port}",
            elapsed=wait.elapsed,
            evidence=evidence,
            hint="Where it was refused, nothing listens there yet: does the service run in the guest? Else this "
            "machine does not reach the guest: one behind user networking, behind a firewall or on a network of "
            "another host cannot be reached from here; try from the hypervisor's host, or choose a bridged network.",
            **self._where,
        )


def _said(report: AddressReport) -> str:
    if report.addresses:
        return f"knows only {', '.join(address.ip for address in report.addresses)}, which leads nowhere"
    return report.said or "knows none"


def _link_local(ip: str) -> bool:
    import ipaddress

    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    return address.is_link_local or address.is_loopback or address.is_unspecified


def _endpoint(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _connect(ip: str, port: int, timeout: float) -> str | None:
    """Why nothing answers there, in words; None when something does."""
    import socket

    try:
        socket.create_connection((ip, port), timeout).close()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "did not answer"
    except OSError as error:
        return f"cannot be reached: {error.strerror or error}"
    return None


def _words(command: object) -> list[str]:
    hint = 'Give a list: ["uname", "-a"]. Where a shell is wanted, name it: ["sh", "-c", "ls | wc -l"].'
    if not isinstance(command, (list, tuple)) or not command or not command[0]:
        raise InvalidValueError(f"{command!r} is not a command.", hint=hint)
    for word in command:
        if not isinstance(word, str) or "\0" in word or not _encodable(word):
            raise InvalidValueError(f"{word!r} cannot be a word of a command.", hint=hint)
    return list(command)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bytes(given: object) -> bytes:
    if isinstance(given, str) and _encodable(given):
        return given.encode()
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given)
    raise InvalidValueError("What a command reads is bytes or text.", hint='Such as input=b"yes\\n".')
