"""For drivers on libvirt: foreign XML survives, documents follow the schema, and any call may fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..errors import VirtuosoError
from ..hypervisor import Hypervisor
from ..spec import Feature, State
from .base import MakeVM, SuiteBase

_SCHEMAS = ("/usr/share/libvirt/schemas", "/usr/local/share/libvirt/schemas", "/opt/homebrew/share/libvirt/schemas")


class LibvirtGroup(SuiteBase):
    """What concerns the domain XML and the calls to libvirt; skipped for other drivers."""

    @pytest.fixture
    def libvirt_only(self) -> None:
        """Skips for drivers that are not on libvirt."""
        if not self.on_libvirt():
            pytest.skip(f"{self.hypervisor.name} is not on libvirt")

    @pytest.mark.usefixtures("libvirt_only")
    def test_foreign_xml_survives(self, connection: Hypervisor, make: MakeVM, disk_image: str) -> None:
        """What another tool put into a VM is there after a save, to the letter."""
        from ..xml import DomainDocument

        if Feature.MODIFY not in connection.features:
            pytest.skip(f"{connection.name} declares that it cannot change VMs")
        vm = make(disk_image=disk_image)
        document = DomainDocument(vm.spec)
        document.add(document.root, "description").text = "kept & loved"
        document.add(document.root, "title").text = "hand-tuned"
        native: Any = connection
        native.connection.native.defineXML(document.text)
        vm.reload()
        before = DomainDocument(vm.spec)
        vm.memory += 64 * 1024
        vm.save()
        after = DomainDocument(connection.get(vm.uuid).spec)
        assert after.memory == vm.memory
        assert after.root.findtext("description") == "kept & loved"
        after.set_memory(before.memory or 0)
        assert after.canonical() == before.canonical()

    @pytest.mark.usefixtures("libvirt_only")
    def test_documents_follow_the_schema(self, connection: Hypervisor, make: MakeVM, disk_image: str) -> None:
        """libvirt's own RNG accepts a new VM with every network and each option."""
        from lxml import etree

        folder = next((path for path in map(Path, _SCHEMAS) if (path / "domain.rng").exists()), None)
        if folder is None:
            pytest.skip("libvirt's schemas are not installed (Debian: libvirt0)")
        schema = etree.RelaxNG(etree.parse(folder / "domain.rng"))
        vm = make(save=False, disk_image=disk_image)
        for type in connection.networks:
            self.add_network(vm, type)
        documents = [vm.spec]
        for name, option in connection.options.items():
            for sample in self.samples(option):
                vm.set(name, sample)
                documents.append(vm.spec)
                vm.set(name, None)
        for document in documents:
            schema.assertValid(etree.fromstring(document))

    @pytest.fixture
    def break_call(self, connection: Any) -> Iterator[Callable[[int], list[str]]]:
        """Makes the n-th call to libvirt fail, from then on until told otherwise; returns the calls that were made."""
        import libvirt

        real = connection.connection.call

        def arm(at: int) -> list[str]:
            made: list[str] = []

            def call(doing: str, function: Callable[..., Any], *args: Any, **where: Any) -> Any:
                made.append(doing)
                if len(made) != at:
                    return real(doing, function, *args, **where)

                def fail(*_: Any) -> None:
                    error = libvirt.libvirtError("broken on purpose")
                    error.err = (
                        libvirt.VIR_ERR_OPERATION_FAILED,
                        libvirt.VIR_FROM_NONE,
                        "broken on purpose",
                        2,
                        *[""] * 3,
                        -1,
                        -1,
                    )
                    raise error

                return real(doing, fail, *args, **where)

            connection.connection.call = call
            return made

        yield arm
        connection.connection.call = real

    @pytest.mark.usefixtures("libvirt_only")
    def test_each_call_of_a_create_may_fail(
        self, connection: Hypervisor, make: MakeVM, disk_image: str, break_call: Callable[[int], list[str]]
    ) -> None:
        """Either the VM is there whole, or nothing is left of it."""
        for at in range(1, 20):
            vm = make(save=False, disk_image=disk_image)
            made = break_call(at)
            try:
                vm.save()
            except VirtuosoError:
                break_call(0)
                assert connection.find(vm.name) is None, made
                vm.save()
            break_call(0)
            assert connection.get(vm.name).disk_image == disk_image
            if len(made) < at:
                return
        pytest.fail("a create takes more than 20 calls")

    @pytest.mark.usefixtures("libvirt_only")
    def test_each_call_of_a_save_may_fail(
        self, connection: Hypervisor, make: MakeVM, disk_image: str, break_call: Callable[[int], list[str]]
    ) -> None:
        """Either the change is there, or the VM is as it was."""
        if Feature.MODIFY not in connection.features:
            pytest.skip(f"{connection.name} declares that it cannot change VMs")
        for at in range(1, 30):
            vm = make(disk_image=disk_image)
            name, before = vm.name, vm.spec
            vm.memory += 64 * 1024
            if Feature.RENAME in connection.features:
                vm.name = f"{name}-renamed"
            made = break_call(at)
            try:
                vm.save()
            except VirtuosoError:
                break_call(0)
                assert connection.get(vm.uuid).spec == before, made
                vm.save(force=True)
            break_call(0)
            assert (connection.get(vm.uuid).memory, connection.get(vm.uuid).name) == (vm.memory, vm.name)
            vm.destroy()
            if len(made) < at:
                return
        pytest.fail("a save takes more than 30 calls")

    @pytest.mark.usefixtures("libvirt_only")
    def test_each_call_of_a_destroy_may_fail(
        self, connection: Hypervisor, make: MakeVM, break_call: Callable[[int], list[str]]
    ) -> None:
        """Either it is gone, or it is as it was and can be destroyed again."""
        for at in range(1, 20):
            vm = make()
            before = vm.spec
            made = break_call(at)
            try:
                vm.destroy()
            except VirtuosoError:
                break_call(0)
                found = connection.get(vm.uuid)
                assert (found.spec, found.state) == (before, State.STOPPED)
                vm.destroy()
            break_call(0)
            assert connection.find(vm.name) is None
            if len(made) < at:
                return
        pytest.fail("a destroy takes more than 20 calls")
