"""WaysBackGroup: snapshots and clones."""

from __future__ import annotations

from .base import SuiteBase


class WaysBackGroup(SuiteBase):
    """What those promise."""
