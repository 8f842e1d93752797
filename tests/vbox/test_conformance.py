"""The VirtualBox driver keeps the promises on a real VirtualBox, as far as that goes without its kernel module."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from virtuoso_core.testing import HypervisorSuite
from virtuoso_core.testing.base import MakeVM
from virtuoso_core.testing.guest import GuestGroup
from virtuoso_core.testing.lifecycle import LifecycleGroup
from virtuoso_core.testing.running import RunningGroup
from virtuoso_core.testing.ways_back import WaysBackGroup
from virtuoso_core.vm import VM
from virtuoso_vbox.driver import VBoxHypervisor
from virtuoso_vbox.manage import DRIVER


class TestVBox(HypervisorSuite):
    hypervisor = VBoxHypervisor
    choke_point = "runner.run"
    network_sources: ClassVar[dict[str, str]] = {"bridged": "eth0"}

    @pytest.fixture
    def uri(self, uri: str) -> str:
        """The lab's; a fixture of the suite's has the same name."""
        return uri

    @pytest.fixture
    def disk_image(self, disk_image: str) -> str:
        """The lab's."""
        return disk_image

    @pytest.fixture
    def own_disk(self, disk_image: str) -> str:
        """It stays until the machine is gone: its snapshots are merged into it then."""
        return disk_image

    @pytest.fixture
    def further_image(self, further_image: str) -> str:
        """The lab's."""
        return further_image

    @pytest.fixture
    def discs(self, discs: tuple[str, str]) -> tuple[str, str]:
        """The lab's."""
        return discs

    @pytest.fixture
    def running(self) -> VM:
        """Nothing runs without the module."""
        pytest.skip(f"no kernel module here ({DRIVER}): no machine starts; see TestRunning")

    def run_guest(self, vm: VM) -> None:
        """Nothing runs without the module; TestRunning has the same program with a stand-in."""

    def start(self, vm: VM) -> None:
        """As ``running``."""
        pytest.skip(f"no kernel module here ({DRIVER}): no machine starts; see TestRunning")


class TestRunning(LifecycleGroup, GuestGroup, WaysBackGroup, RunningGroup):
    """Real settings, and a program before VBoxManage that pretends to start machines and to control them."""

    hypervisor = VBoxHypervisor
    proof = "simulated"

    @pytest.fixture
    def uri(self, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """The lab's, by the stand-in."""
        real = uri.partition("vboxmanage=")[2].partition("&")[0]
        monkeypatch.setenv("STANDIN_VBOXMANAGE", real)
        monkeypatch.setenv("STANDIN_STATE", str(tmp_path / "states.json"))
        return f"vbox:///session?vboxmanage={Path(__file__).with_name('standin.py')}"

    @pytest.fixture
    def disk_image(self, disk_image: str) -> str:
        """The lab's."""
        return disk_image

    @pytest.fixture
    def own_disk(self, disk_image: str) -> str:
        """It stays until the machine is gone: its snapshots are merged into it then."""
        return disk_image

    @pytest.fixture
    def break_call(self) -> None:
        """What is made to fail needs no guest that runs."""
        pytest.skip("see TestVBox")

    @pytest.fixture
    def running(self, make: MakeVM, disk_image: str) -> VM:
        """Said to be running, with a remote screen."""
        vm = make(save=False, disk_image=disk_image)
        vm.set("vrde_port", 3389)
        vm.save()
        vm.start()
        return vm
