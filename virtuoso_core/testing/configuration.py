"""Round trip, networks, options: what is saved is what is found, and what was not asked for stays."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..errors import (
    InvalidNetworkError,
    InvalidOptionError,
    InvalidValueError,
    UnknownOptionWarning,
    UnsupportedError,
    UnsupportedNetworkError,
)
from ..hypervisor import Hypervisor
from ..spec import Feature, SaveResult
from .base import EXAMPLES, MakeVM, Proved, SuiteBase

NAMES = st.one_of(
    st.text(min_size=1, max_size=40),
    st.text("<>&\"'%$`\\;{}()[]|*?~# .-_éß漢字🐧\n\t", min_size=1, max_size=40),
)
MEMORY = st.integers(64, 8 * 1024).map(lambda mebibytes: mebibytes * 1024)


class ConfigurationGroup(SuiteBase):
    """What is written and read."""

    @EXAMPLES
    @given(name=NAMES)
    def test_names_round_trip(self, connection: Hypervisor, make: MakeVM, name: str) -> None:
        """Every name is either refused in words or kept to the letter."""
        vm = make(save=False)
        try:
            vm.name = name
        except InvalidValueError:
            return
        vm.save()
        try:
            found = connection.get(name)
            assert (found.name, found.uuid) == (name, vm.uuid)
            assert name in [each.name for each in connection.vms()]
        finally:
            vm.destroy()
        assert connection.find(name) is None

    @EXAMPLES
    @given(memory=MEMORY, cpus=st.integers(1, 8))
    def test_size_round_trips(self, connection: Hypervisor, make: MakeVM, memory: int, cpus: int) -> None:
        """Memory and processors."""
        vm = make(memory=memory, cpus=cpus)
        kept = connection._memory_size(memory)
        found = connection.get(vm.uuid)
        assert (vm.memory, found.memory, found.cpus) == (kept, kept, cpus)
        vm.destroy()

    @EXAMPLES
    @given(first=MEMORY, second=MEMORY)
    def test_changes_round_trip(self, connection: Hypervisor, make: MakeVM, first: int, second: int) -> None:
        """On a VM that exists: the change and nothing else."""
        self.need(connection, "memory")
        vm = make(memory=first)
        before = vm.spec
        old, vm.memory = vm.memory, second
        assert vm.save() is (SaveResult.UNCHANGED if old == vm.memory else SaveResult.APPLIED)
        assert connection.get(vm.uuid).memory == vm.memory == connection._memory_size(second)
        vm.memory = first
        vm.save()
        assert connection.get(vm.uuid).spec == before
        vm.destroy()

    def test_unchanged_save_does_nothing(self, connection: Hypervisor, make: MakeVM) -> None:
        """Nothing edited, or edited back."""
        vm = make()
        assert vm.save() is SaveResult.UNCHANGED
        vm.memory += 64 * 1024
        vm.memory -= 64 * 1024
        assert vm.diff() == ""
        assert vm.save() is SaveResult.UNCHANGED
        assert connection.get(vm.uuid).save() is SaveResult.UNCHANGED

    def test_disk_image(self, connection: Hypervisor, make: MakeVM, disk_image: str) -> None:
        """Given at first or later, and taken away again."""
        vm = make(disk_image=disk_image)
        assert connection.get(vm.uuid).disk_image == disk_image
        self.need(connection, "disk_image")
        vm.disk_image = None
        vm.save()
        assert connection.get(vm.uuid).disk_image is None
        vm.disk_image = disk_image
        vm.save()
        assert connection.get(vm.uuid).disk_image == disk_image

    def test_rename(self, connection: Hypervisor, make: MakeVM, proved: Proved) -> None:
        """The same VM under another name; without the feature it is refused."""
        if Feature.RENAME not in connection.features:
            pytest.skip(f"{connection.name} declares that it cannot rename VMs")
        vm = make()
        old, new = vm.name, f"{vm.name}-renamed"
        vm.name = new
        vm.memory += 1024
        vm.save()
        assert connection.find(old) is None
        found = connection.get(new)
        assert (found.uuid, found.memory) == (vm.uuid, vm.memory)
        proved("feature:rename")

    def test_what_cannot_be_changed_is_refused(self, connection: Hypervisor, make: MakeVM, disk_image: str) -> None:
        """In words that say what can; nothing of the save is made."""
        vm = make(disk_image=disk_image)
        before = connection.get(vm.uuid).spec
        if Feature.MODIFY in connection.features and connection.modifiable >= {"disk_image", "networks"}:
            pytest.skip(f"{connection.name} can change all fields")
        vm.disk_image, vm.memory = None, vm.memory + 64 * 1024
        with pytest.raises(UnsupportedError, match=r"disk_image|modify"):
            vm.save()
        assert connection.get(vm.uuid).spec == before

    # Networks.

    def test_each_network_works(self, connection: Hypervisor, make: MakeVM, proved: Proved) -> None:
        """Every declared type, on a new VM and on one that exists."""
        vm = make(save=False)
        added = [self.add_network(vm, type) for type in connection.networks]
        vm.save()
        assert connection.get(vm.uuid).networks == tuple(added)
        for network in added:
            proved(f"network:{network.type}")
        self.need(connection, "networks")
        later = [self.add_network(vm, type) for type in connection.networks]
        vm.save()
        assert connection.get(vm.uuid).networks == (*added, *later)
        for network in added:
            vm.remove_network(network)
        vm.save()
        assert connection.get(vm.uuid).networks == tuple(later)

    def test_other_networks_are_refused(self, connection: Hypervisor, make: MakeVM) -> None:
        """In words that name the types there are; the VM stays as it was."""
        vm = make(save=False)
        for type in {"nat", "bridged", "host_only", "internal", "token-ring"} - set(connection.networks):
            with pytest.raises(UnsupportedNetworkError) as caught:
                vm.network(type)
            assert all(name in str(caught.value) for name in connection.networks)
        assert vm.networks == ()

    def test_mac_addresses(self, connection: Hypervisor, make: MakeVM) -> None:
        """The one given is kept; one that cannot be, or is there already, is refused."""
        if not connection.networks:
            pytest.skip(f"{connection.name} declares no networks")
        type = next(iter(connection.networks))
        source = self.network_sources.get(type)
        mac = f"{connection.mac_prefix}:0a:0b:0c"
        vm = make(save=False)
        vm.network(type, mac_address=mac.upper(), source=source)
        for bad in (mac, "52:54:00", "01:23:45:67:89:ab", "zz:zz:zz:zz:zz:zz"):
            with pytest.raises(InvalidNetworkError):
                vm.network(type, mac_address=bad, source=source)
        vm.save()
        assert [network.mac_address for network in connection.get(vm.uuid).networks] == [mac]

    # Options.

    def test_each_option_on_a_new_vm(
        self, connection: Hypervisor, make: MakeVM, disk_image: str, proved: Proved
    ) -> None:
        """Every declared option takes its samples and has them afterwards."""
        for name, option in connection.options.items():
            for sample in self.samples(option):
                vm = make(save=False, disk_image=disk_image)
                vm.set(name, sample)
                vm.save()
                found = connection.get(vm.uuid).options.get(name)
                assert found == sample or option.same(sample, found), (name, sample, found)
                vm.destroy()
            proved(f"option:{name}")

    def test_each_option_on_an_old_vm(self, connection: Hypervisor, make: MakeVM, disk_image: str) -> None:
        """Set on a VM that exists, and taken away again, leaving the other settings alone."""
        self.need(connection, "options")
        for name, option in connection.options.items():
            vm = make(disk_image=disk_image)
            kept = (vm.memory, vm.cpus, vm.disk_image, vm.networks)
            for sample in self.samples(option):
                vm.set(name, sample)
                vm.save()
                found = connection.get(vm.uuid).options.get(name)
                assert found == sample or option.same(sample, found), (name, sample, found)
            vm.set(name, None)
            vm.save()
            again = connection.get(vm.uuid)
            assert (again.memory, again.cpus, again.disk_image, again.networks) == kept
            vm.destroy()

    def test_bad_option_values(self, connection: Hypervisor, make: MakeVM) -> None:
        """Refused in words that say what is taken; the VM stays as it was."""
        vm = make()
        for name, option in connection.options.items():
            with pytest.raises(InvalidOptionError) as caught:
                vm.set(name, object())
            assert option.takes in str(caught.value)
        assert vm.diff() == ""

    def test_unknown_options_are_ignored(self, make: MakeVM) -> None:
        """A program for another hypervisor runs here; only a key that nobody knows is warned about."""
        vm = make(save=False)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            vm.set("no_driver_has_this", 1)
        assert [warning.category for warning in caught] == [UnknownOptionWarning]
        assert vm.ignored_options == {"no_driver_has_this": 1}
        vm.save()
