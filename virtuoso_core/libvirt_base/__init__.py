"""What all drivers on libvirt share. The only package that imports libvirt, and only when a connection opens."""

from .hypervisor import LibvirtHypervisor
from .networks import Wiring
from .options import XmlOption
from .vm import LibvirtVM

__all__ = ["LibvirtHypervisor", "LibvirtVM", "Wiring", "XmlOption"]
