"""GuestGroup: waiting for a guest, running commands in it, its console and screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from ..errors import (
    AddressTimeoutError,
    GuestAgentError,
    InvalidStateError,
    InvalidValueError,
    UnsupportedError,
    WaitTimeoutError,
)
from ..hypervisor import Hypervisor
from ..spec import Feature
from ..vm import VM
from .base import MakeVM, Proved, SuiteBase

_SOON = 20.0
"""Seconds within which what was given up after a fraction of one must really be over, on a slow hypervisor."""

_CALLS: dict[Feature, tuple[Callable[[VM], Any], ...]] = {
    Feature.ADDRESSES: (VM.addresses, VM.wait_for_address, VM.wait_for),
    Feature.SCREENSHOT: (VM.screenshot,),
    Feature.RUN: (lambda vm: vm.run(["true"]),),
    Feature.CONSOLE: (VM.console,),
    Feature.DISPLAY: (lambda vm: vm.display,),
}


class GuestGroup(SuiteBase):
    """Waits that end, and what a guest without a system makes of being asked."""

    @pytest.fixture
    def no_mock(self, real_uri: str | None) -> None:
        """Skips on libvirt's mock, which has no guests."""
        if real_uri is None and self.on_libvirt():
            pytest.skip("libvirt's mock runs no guests")

    @pytest.mark.parametrize("feature", _CALLS)
    def test_what_needs_a_guest(self, connection: Hypervisor, make: MakeVM, feature: Feature) -> None:
        """Without the feature it is refused; with it, while the VM is not saved or off."""
        unsaved, off = make(save=False), make()
        for call in _CALLS[feature]:
            if feature not in connection.features:
                with pytest.raises(UnsupportedError, match=feature.value):
                    call(off)
                continue
            with pytest.raises(InvalidStateError, match="never saved"):
                call(unsaved)
            with pytest.raises(InvalidStateError, match="stopped") as caught:
                call(off)
            assert caught.value.vm == off.name

    def test_wait_until(self, running: VM) -> None:
        """It returns at once when it is so, and gives up when it does not become so."""
        running.wait_until("running", timeout=0)
        with pytest.raises(WaitTimeoutError, match="it is running") as caught:
            running.wait_until("stopped", timeout=0.2)
        assert caught.value.evidence
        assert 0.2 <= caught.value.elapsed < _SOON
        running.stop(timeout=0)
        running.wait_until("stopped", timeout=_SOON)
        with pytest.raises(InvalidValueError):
            running.wait_until("no such state")

    @pytest.mark.usefixtures("no_mock")
    def test_an_address_that_never_comes(self, connection: Hypervisor, make: MakeVM, disk_image: str) -> None:
        """A guest without a system: the error tells what each source said. Without a card it is not waited for."""
        if Feature.ADDRESSES not in connection.features:
            pytest.skip(f"{connection.name} declares that it cannot tell addresses")
        vm = make(disk_image=disk_image)
        self.start(vm)
        if not vm.networks:
            with pytest.raises(InvalidStateError, match="no network card"):
                vm.wait_for_address(60)
        if "nat" not in connection.networks:
            return
        other = make(disk_image=None if not self.needs_disk else disk_image, save=False)
        self.add_network(other, "nat")
        other.save()
        vm.stop(timeout=0)
        self.start(other)
        start = time.monotonic()
        with pytest.raises(AddressTimeoutError) as caught:
            other.wait_for_address(timeout=0.3)
        assert time.monotonic() - start < _SOON
        error = caught.value
        for report in other._address_reports():
            assert f"{report.source}: " in error.evidence
        assert error.evidence in error.message
        assert error.hint
        with pytest.raises(WaitTimeoutError):
            other.wait_for(22, timeout=0.3)

    @pytest.mark.usefixtures("no_mock")
    def test_run_without_an_agent(self, connection: Hypervisor, running: VM, proved: Proved) -> None:
        """It says so within its time, and what to install."""
        if Feature.RUN not in connection.features:
            pytest.skip(f"{connection.name} declares that it cannot run commands")
        start = time.monotonic()
        with pytest.raises(GuestAgentError) as caught:
            running.run(["true"], timeout=0.5)
        assert time.monotonic() - start < _SOON
        assert caught.value.hint
        assert caught.value.vm == running.name
        with pytest.raises(InvalidValueError):
            running.run("true")
        proved("feature:run")

    @pytest.mark.usefixtures("no_mock")
    def test_console(self, connection: Hypervisor, running: VM, proved: Proved) -> None:
        """One at a time; it ends with the VM."""
        if Feature.CONSOLE not in connection.features:
            pytest.skip(f"{connection.name} declares that it has no consoles")
        with running.console() as console:
            console.read(timeout=0.1)
            console.write(b"\n")
            with pytest.raises(InvalidStateError):
                running.console()
        assert console.ended
        console.close()
        with pytest.raises(InvalidStateError):
            console.write(b"\n")
        with running.console() as console:
            running.stop(timeout=0)
            end = time.monotonic() + _SOON
            while not console.ended and time.monotonic() < end:
                console.read(timeout=0.1)
            assert console.ended
            while console.read(timeout=0.1):
                pass
            assert console.read() == b""
        proved("feature:console")

    def test_display(self, connection: Hypervisor, running: VM, proved: Proved) -> None:
        """A place where something listens, or None."""
        if Feature.DISPLAY not in connection.features:
            pytest.skip(f"{connection.name} declares that it cannot tell where screens are")
        found = running.display
        if found is not None:
            assert found.protocol in ("vnc", "spice", "rdp")
            assert (found.port or 0) > 0 or found.socket
            proved("feature:display")
