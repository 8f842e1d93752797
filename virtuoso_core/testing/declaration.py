"""Declaration: what a driver says of itself is complete, and it leaves the public methods to the core."""

from __future__ import annotations

import re

from ..hypervisor import Hypervisor
from ..spec import Feature, Option
from ..uri import URI
from ..vm import VM
from .base import MakeVM, SuiteBase

_DATA = {"name", "schemes", "features", "networks", "options", "modifiable", "mac_prefix", "open"}


class DeclarationGroup(SuiteBase):
    """What the driver declares."""

    def test_class_is_complete(self) -> None:
        """It has a name and schemes, and no abstract method is left."""
        assert self.hypervisor._faults() == []
        assert re.fullmatch(r"[a-z][a-z0-9-]*", self.hypervisor.name)
        assert all(re.fullmatch(r"[a-z][a-z0-9-]*", scheme) for scheme in self.hypervisor.schemes)

    def test_features_are_known(self, connection: Hypervisor) -> None:
        """Features come from the core's list, so that programs can ask for them."""
        assert all(isinstance(feature, Feature) for feature in connection.features)

    def test_networks_are_described(self, connection: Hypervisor) -> None:
        """Each type has the core's name and a sentence."""
        assert set(connection.networks) <= {"nat", "bridged", "host_only", "internal"}
        assert all(doc.strip() for doc in connection.networks.values())

    def test_options_are_described(self, connection: Hypervisor) -> None:
        """Each option has a proper key, a sentence, and a sample value that it takes."""
        for name, option in connection.options.items():
            assert isinstance(option, Option)
            assert name == option.name
            assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
            assert option.doc.strip()
            samples = self.samples(option)
            assert samples, f"give the option {name!r} an example, or option_samples[{name!r}] to its suite"
            assert [option.parse(sample) for sample in samples] == samples

    def test_connection_tells_who_it_is(self, connection: Hypervisor, uri: str) -> None:
        """The URI it was given, and a version for people."""
        assert connection.uri == URI.parse(uri)
        assert connection.version.strip()
        assert isinstance(connection, self.hypervisor)

    def test_public_methods_are_the_cores(self, make: MakeVM) -> None:
        """The same call does the same on every hypervisor because it is the same code."""
        for core, cls in ((Hypervisor, self.hypervisor), (VM, type(make(save=False)))):
            public = {name for name in dir(core) if not name.startswith("_")} - _DATA
            inherited = [other for other in cls.__mro__ if other is not core and issubclass(other, core)]
            overridden = {name for other in inherited for name in vars(other)} & public
            assert not overridden, f"{cls.__name__} overrides {', '.join(sorted(overridden))}"
