"""For drivers on libvirt: foreign XML survives, and documents follow the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..hypervisor import Hypervisor
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

        self.need(connection, "memory")
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
