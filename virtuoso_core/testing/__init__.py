"""For authors of drivers and of programs: the conformance suite, and a hypervisor in memory.

::

    from virtuoso_core.testing import HypervisorSuite

    class TestMine(HypervisorSuite):
        hypervisor = MyHypervisor
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .suite import HypervisorSuite

__all__ = ["HypervisorSuite"]


def __getattr__(name: str) -> object:
    """The suite needs pytest and hypothesis; the hypervisor in memory, which is in this package too, does not."""
    if name == "HypervisorSuite":
        from .suite import HypervisorSuite

        return HypervisorSuite
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
