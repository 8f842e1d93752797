"""DisksGroup: disk images, further disks, CD-ROMs and what cloud-init reads."""

from __future__ import annotations

from .base import SuiteBase


class DisksGroup(SuiteBase):
    """What those promise."""
