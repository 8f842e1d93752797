"""SuiteBase: the fixtures that every group of the conformance suite uses, all of which a driver may override."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, settings

from ..hypervisor import Hypervisor
from ..spec import Feature, Option
from ..uri import URI
from ..vm import VM

MakeVM = Callable[..., VM]
Proved = Callable[[str], None]

EXAMPLES = settings(
    max_examples=int(os.environ.get("VIRTUOSO_TEST_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
"""How hypothesis runs here: each example makes and removes a VM, in the fixtures of one test."""


class SuiteBase:
    """What to test, and on what.

    Attributes:
        hypervisor: the driver's class.
        option_samples: values to try, for an option whose ``choices``, ``kind`` and ``example`` do not give them.
        network_sources: the source to name, for each type of network that needs one.
        needs_disk: whether no VM can be saved without a disk.
        proof: what a run on the driver's own scheme is worth: "simulated" where a simulator answers.
    """

    hypervisor: ClassVar[type[Hypervisor]]
    option_samples: ClassVar[Mapping[str, Sequence[Any]]] = {}
    network_sources: ClassVar[Mapping[str, str]] = {"bridged": "br0"}
    needs_disk: ClassVar[bool] = False
    proof: ClassVar[Literal["verified", "simulated"]] = "verified"

    @pytest.fixture
    def real_uri(self) -> str | None:
        """Where a real hypervisor is, from the environment's VIRTUOSO_TEST_URI_<NAME>; None when none is given."""
        return os.environ.get(f"VIRTUOSO_TEST_URI_{self.hypervisor.name.upper().replace('-', '_')}")

    @pytest.fixture
    def uri(self, real_uri: str | None, tmp_path: Path) -> str:
        """Where to test: a real one; else libvirt's mock; else the driver's first scheme."""
        if real_uri is not None:
            return real_uri
        if self.on_libvirt():
            return "test:///default"
        return f"{self.hypervisor.schemes[0]}://{tmp_path}"

    @pytest.fixture
    def connection(self, uri: str) -> Iterator[Hypervisor]:
        """An open connection, closed afterwards."""
        with self.connect(uri) as hypervisor:
            yield hypervisor

    @pytest.fixture
    def disk_image(self, tmp_path: Path) -> str:
        """An empty disk image where the hypervisor can find it. Override it for one that is elsewhere."""
        image = tmp_path / "disk.img"
        image.write_bytes(bytes(1024 * 1024))
        return str(image)

    @pytest.fixture
    def make(self, connection: Hypervisor, request: pytest.FixtureRequest) -> Iterator[MakeVM]:
        """Makes a saved VM with a name of its own; all are removed afterwards."""
        made: list[VM] = []

        def make(save: bool = True, **fields: Any) -> VM:
            vm = connection.new_vm()
            vm.name = f"virtuoso-suite-{secrets.token_hex(4)}"
            if self.needs_disk:
                vm.disk_image = request.getfixturevalue("disk_image")
            for field, value in fields.items():
                setattr(vm, field, value)
            made.append(vm)
            if save:
                vm.save()
            return vm

        yield make
        for vm in made:
            vm.destroy(force=True)

    @pytest.fixture
    def proved(self, connection: Hypervisor) -> Callable[[str], None]:
        """Writes down that something declared was tried, such as "feature:pause", for the capability table.

        A run on libvirt's mock proves nothing of another driver.
        """
        place = os.environ.get("VIRTUOSO_PROOF_FILE")
        real = connection.uri.scheme in self.hypervisor.schemes

        def prove(item: str) -> None:
            if place and real:
                line = {"driver": connection.name, "item": item, "kind": self.proof, "on": connection.version}
                line["by"] = type(self).__module__.rpartition(".")[2]
                with open(place, "a") as file:
                    file.write(json.dumps(line) + "\n")

        return prove

    def connect(self, uri: str, **options: Any) -> Hypervisor:
        """Open the driver itself, whatever the URI's scheme: libvirt's mock serves them all."""
        return self.hypervisor.open(URI.parse(uri), **options)

    @classmethod
    def on_libvirt(cls) -> bool:
        """Whether the driver is one on libvirt."""
        return hasattr(cls.hypervisor, "new_document")

    @classmethod
    def samples(cls, option: Option) -> list[Any]:
        """Values to try for an option; empty when the driver's author must give some."""
        if option.name in cls.option_samples:
            return list(cls.option_samples[option.name])
        if option.kind == "bool":
            return [True, False]
        if option.choices:
            return [(choice,) for choice in option.choices] if option.kind == "list" else list(option.choices)
        if option.kind == "int" and option.minimum is not None:
            return [option.minimum, *([] if option.maximum is None else [option.maximum])]
        return [] if option.example is None else [option.example]

    @staticmethod
    def need(connection: Hypervisor, *fields: str) -> None:
        """Skips where the hypervisor declares that it cannot change these fields of an existing VM."""
        fixed = set(fields) - connection.modifiable
        if Feature.MODIFY not in connection.features or fixed:
            pytest.skip(f"{connection.name} declares that it cannot change {', '.join(sorted(fixed)) or 'VMs'}")

    def start(self, vm: VM) -> None:
        """Start a VM. Override it where none can be started, to skip the test."""
        vm.start()

    def add_network(self, vm: VM, type: str) -> Any:
        """Add a network of a type that this hypervisor declares."""
        return vm.network(type, source=self.network_sources.get(type))
